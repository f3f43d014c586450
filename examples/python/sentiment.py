"""A model from Python: train it, load it, and use it for new rows."""

# %% Train. The words are those of `mtl train`; this is a minute on a laptop.
import numpy as np

import mtlcli

trained = mtlcli.train(
    [
        "task=[sst2,cola,rte]",
        "data=sample",
        "model=tiny",
        "model.layers=1",
        "model.hidden=32",
        "model.heads=2",
        "runner.steps=120",
        "data.max_eval_rows=100",
        "logger.console=plain",
    ]
)
print(trained.path, trained.results["average"])

# %% Load it, here or anywhere else: mtlcli.load("runs/NAME").
model = trained.load()
for task in model.tasks.values():
    print(task.name, task.type, task.columns, task.labels)

# %% Label new texts. A prediction is a dictionary.
texts = ["The film was wonderful.", "The plot was boring and slow."]
for text, found in zip(texts, model.predict(texts, task="sst2"), strict=True):
    print(f"{text:32} {found['label']:10} {max(found['probabilities'].values()):.2f}")

# %% Pairs, and rows with names.
pairs = [("A dog runs.", "A dog moves."), {"sentence1": "It rains.", "sentence2": "It is dry."}]
print([found["label"] for found in model.predict(pairs, task="rte")])

# %% Several tasks. Where the sharing strategy allows, a text goes through the encoder once.
both = model.predict(texts, task=["sst2", "cola"])
print(model.passes(["sst2", "cola"]), [found["label"] for found in both["cola"]])

# %% Rows that cannot be read are an error, or, with `on_fault`, None.
found = model.predict(
    ["fine", ""], task="cola", on_fault=lambda row, problem: print(row, problem.what)
)
assert found[1] is None

# %% Vectors of texts.
vectors = model.encode(texts)
print(vectors.shape, float(np.linalg.norm(vectors[0] - vectors[1])))
