"""From a store to a steering vector: one frozen dataclass for each method."""

from __future__ import annotations

from steerkit.extraction.extractors import EXTRACTORS, Extractor, extract
from steerkit.extraction.mean_difference import MeanDifference
from steerkit.extraction.pca import PCA
from steerkit.extraction.probes import LinearDiscriminant, LogisticProbe

__all__ = ["EXTRACTORS", "PCA", "Extractor", "LinearDiscriminant", "LogisticProbe", "MeanDifference", "extract"]
