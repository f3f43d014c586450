"""Which tasks to train together, estimated from one joint model: `gradients.py` collects the
gradients of single examples from a run, `surrogate.py` estimates from them the losses after
training on any subset of the tasks, and `affinity.py` keeps what follows."""
