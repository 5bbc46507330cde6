"""What nnsight carries to the machine where a model runs: one pass, read and edited by torch alone.

The source of these functions travels with a trace, and beside it a plan: tensors, numbers, and operations by name. So
they may use nothing but torch and each other, and no checks are put around them (`no_type_check`).
"""

from __future__ import annotations

from typing import Any, no_type_check

import torch


@no_type_check
def visit(model: Any, plan: dict, log: dict, step: int) -> None:
    """Go through one pass in the order in which the model computes it.

    Args:
        model: nnsight's.
        plan: Where to go and what to do there.
        log: What was seen and done; begun anew with the first pass.
        step: Number of the pass.
    """
    if step == 0:
        log.clear()
        log.update(passes=[], done=[])
    outer = model.inputs[1].get("attention_mask")
    now, done, entering = look(*model.get(plan["decoder"]).inputs, outer, plan, log), {}, None
    log["passes"].append(now)
    log["done"].append(done)
    for place in plan["places"]:
        at = model.get(place["path"])
        given = at.input if place["inward"] else at.output
        first = given[0] if isinstance(given, tuple) else given
        rows = first.view(now["batch"], now["length"], -1) if first.ndim == 2 else first
        hidden = rows
        for task in place["tasks"]:
            hidden = act(task, hidden, now, done)
        if place["site"] == "resid_pre":
            entering = hidden
        if place["mid"]:
            mid = changed = entering + hidden
            for task in place["mid"]:
                changed = act(task, changed, now, done)
            hidden = hidden if changed is mid else hidden.where(changed == mid, changed - entering)
        if hidden is rows:
            continue
        hidden = hidden.view(first.shape)
        if place["inward"]:
            at.input = hidden
        else:
            at.output = (hidden, *given[1:]) if isinstance(given, tuple) else hidden


@no_type_check
def look(args: tuple, kwargs: dict, outer: Any, plan: dict, log: dict) -> dict:
    """What a pass of the decoder holds: the absolute position of every token, and how long the prompts are.

    The mask is that of the whole model where the decoder is given one of another form.
    """
    tokens = kwargs.get("input_ids", args[0] if args else None)
    tokens = kwargs["inputs_embeds"] if tokens is None else tokens
    batch, length = tokens.shape[:2]
    before = log["passes"][-1] if log["passes"] else None
    cache = kwargs.get("past_key_values", kwargs.get("cache_params"))
    if cache is not None and all(getattr(cache, "is_linear", [False])):  # states do not count what led to them
        past = 0 if before is None else before["past"] + before["length"]
    else:
        past = 0 if cache is None else int(cache.get_seq_length())
    masks = [one for one in (kwargs.get("attention_mask"), outer) if isinstance(one, torch.Tensor) and one.ndim == 2]
    flat = next((one[:, : past + length] for one in masks if one.shape[1] >= past + length), None)
    if flat is None and plan["real"] is not None:
        known = spread(plan["real"].to(tokens.device), batch)[:, : past + length]
        flat = torch.nn.functional.pad(known.long(), (0, past + length - known.shape[1]), value=1)
    if plan["told"] is not None:
        ends = spread(plan["told"].to(tokens.device), batch)
    elif before is not None:
        ends = spread(before["ends"], batch)
    else:
        ends = torch.full((batch,), past + length, device=tokens.device) if flat is None else flat.long().sum(-1)
    position = plan["given"]
    if position is None and flat is None:
        position = (past + torch.arange(length, device=tokens.device)).expand(batch, -1)
    elif position is None:
        position = torch.where(flat.bool(), flat.long().cumsum(-1) - 1, -1)[:, -length:]
    prompts = batch if plan["told"] is None else len(plan["told"])
    return {"batch": batch, "length": length, "past": past, "flat": flat, "ends": ends, "prompts": prompts,
            "position": position.to(tokens.device)}  # fmt: skip


@no_type_check
def spread(by_prompt: Any, batch: int) -> Any:
    """By row of the batch: beams and returned sequences repeat each prompt in place."""
    return by_prompt.repeat_interleave(max(batch // max(len(by_prompt), 1), 1), dim=0)


@no_type_check
def act(task: dict, hidden: Any, now: dict, done: dict) -> Any:
    """Carry out one task on the activations of a pass; what it says of itself is kept under its number."""
    if task["operation"] == "read":
        done[task["id"]] = hidden.detach().clone()
        return hidden
    if task["operation"] == "add_at":
        there = hidden[task["rows"], task["columns"]].float() + task["shift"].to(hidden.device)
        changed = hidden.clone()
        changed[task["rows"], task["columns"]] = there.to(hidden.dtype)
        done[task["id"]] = ()
        return changed
    before = hidden.to(torch.promote_types(hidden.dtype, torch.float32))
    vector, coef = task["vector"].to(before), task["coef"]
    acting, rows = torch.tensor(task["acting"], device=hidden.device), len(task["acting"])
    if isinstance(coef, torch.Tensor):
        if rows != now["prompts"]:
            raise ValueError(f"the edits are for {rows} rows, but {now['prompts']} prompts are run at a time")
        coef, acting = spread(coef.to(before), now["batch"]).reshape(-1, 1, 1), spread(acting, now["batch"])
        vector = spread(vector, now["batch"]).unsqueeze(1) if vector.ndim == 2 else vector
    mask = chosen(task["positions"], now["position"].to(hidden.device), now["ends"].to(hidden.device).unsqueeze(-1))
    mask = mask & acting.unsqueeze(-1)
    after = operate(task["operation"], before, vector, coef)
    zero, norm, change = before.new_zeros(()), before.norm(dim=-1), (after - before).norm(dim=-1)
    sums = (mask, torch.where(mask, change, zero), torch.where(mask, norm, zero))
    done[task["id"]] = tuple(one.detach().reshape(rows, -1).sum(-1) for one in sums)
    return torch.where(mask.unsqueeze(-1), after.to(hidden.dtype), hidden)


@no_type_check
def operate(operation: str, hidden: Any, vector: Any, coef: Any) -> Any:
    """The operation of a name."""
    if operation.startswith("preserve_norm "):
        changed = operate(operation.removeprefix("preserve_norm "), hidden, vector, coef)
        return changed * (hidden.norm(dim=-1, keepdim=True) / changed.norm(dim=-1, keepdim=True).clamp(min=1e-12))
    if operation == "add":
        return hidden + coef * vector
    unit = vector / vector.norm(dim=-1, keepdim=True)
    along = (hidden * unit).sum(-1, keepdim=True)
    if operation == "ablate":
        return hidden - coef * along * unit
    if operation == "clamp":
        return hidden + (coef - along) * unit
    raise ValueError(f"there is no operation {operation!r}")


@no_type_check
def chosen(positions: Any, at: Any, end: Any) -> Any:
    """Which tokens of a pass are meant."""
    real = at >= 0
    if isinstance(positions, str):
        return {"all": real, "prompt": real & (at < end), "generation": real & (at >= end - 1)}[positions]
    if not isinstance(positions, slice):
        wanted = [positions] if isinstance(positions, int) else list(positions)
        found = [at == (one if one >= 0 else end + one) for one in wanted]
        return real & torch.stack(found).any(0)
    first = 0 if positions.start is None else positions.start
    start = torch.full_like(end, first) if first >= 0 else (end + first).clamp(min=0)
    mask = real & (at >= start)
    if positions.stop is not None:
        mask = mask & (at < (positions.stop if positions.stop >= 0 else end + positions.stop))
    if positions.step is not None:
        mask = mask & ((at - start) % positions.step == 0)
    return mask


@no_type_check
def sample(module: Any, count: int) -> dict:
    """The shape and an even sample of every weight."""
    found = {}
    for name, weight in module.named_parameters():
        flat = weight.detach().reshape(-1)
        values = flat[:: max(flat.numel() // count, 1)][:count].to(device="cpu", dtype=torch.float32)
        found[name] = (tuple(weight.shape), values)
    return found
