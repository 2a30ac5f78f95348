"""Average precision, by the name under which the scoring room gives it away; see `pipeline.average_precision`."""

from pipeline.average_precision import METRICS, average_precision, mean_average_precision, precision_recall

__all__ = ["METRICS", "average_precision", "mean_average_precision", "precision_recall"]
