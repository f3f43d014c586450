"""Places outside of the run folder's own files where a run can be followed: csv tables,
TensorBoard, Weights & Biases, MLflow.

`base.py` says what a tracker has to do, and `tracking.py` keeps all of a run apart from the
training: a tracker that fails, or does not answer, never stops a run.
"""
