"""Accuracy, F1, Matthews' and other correlations, as GLUE has them (Wang et al., 2018, arXiv:1804.07461).

By scikit-learn and scipy. Shapes: N examples, L labels.
"""

import math
import warnings

import numpy as np


def single_label(
    predicted_N: np.ndarray, target_N: np.ndarray, labels: int | None = None
) -> dict[str, float]:
    """Return accuracy, f1, f1_macro and matthews of label numbers.

    With two labels f1 is that of label 1, the positive one, as MRPC and QQP have it; with more it is the
    macro average. `labels` is how many there are; left out, as many as are found. Matthews' correlation with
    a constant, and F1 of a label that is neither predicted nor meant, are 0.
    """
    from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

    constant = np.ptp(predicted_N) == 0 or np.ptp(target_N) == 0
    count = labels or int(max(predicted_N.max(), target_N.max())) + 1
    macro = float(f1_score(target_N, predicted_N, average="macro", zero_division=0.0))
    positive = float(f1_score(target_N == 1, predicted_N == 1, zero_division=0.0))
    return {
        "accuracy": float(accuracy_score(target_N, predicted_N)),
        "f1": positive if count == 2 else macro,
        "f1_macro": macro,
        "matthews": 0.0 if constant else float(matthews_corrcoef(target_N, predicted_N)),
    }


def multi_label(predicted_NL: np.ndarray, target_NL: np.ndarray) -> dict[str, float]:
    """Return f1 (micro average), f1_macro and exact_match of marks, 1 where an example has the label.

    exact_match is the share of examples whose every mark is right.
    """
    from sklearn.metrics import accuracy_score, f1_score

    return {
        "f1": float(f1_score(target_NL, predicted_NL, average="micro", zero_division=0.0)),
        "f1_macro": float(f1_score(target_NL, predicted_NL, average="macro", zero_division=0.0)),
        "exact_match": float(accuracy_score(target_NL, predicted_NL)),
    }


def regression(predicted_N: np.ndarray, target_N: np.ndarray) -> dict[str, float]:
    """Return pearson, spearman, mse and negative_mse, which is the greater the better, of finite numbers.

    A correlation of fewer than two examples, or with a constant, is 0.
    """
    from scipy.stats import pearsonr, spearmanr

    mse = float(np.mean((predicted_N - target_N) ** 2))
    correlations = {"pearson": 0.0, "spearman": 0.0}
    if len(target_N) > 1:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # scipy warns of a constant, and of what is nearly one
            for name, of in (("pearson", pearsonr), ("spearman", spearmanr)):
                correlation = float(of(predicted_N, target_N).statistic)
                correlations[name] = 0.0 if math.isnan(correlation) else correlation
    return {**correlations, "mse": mse, "negative_mse": -mse}
