"""One runnable file per claim, measured against a rival in the same run; results are kept in results/."""
