"""How an exported folder is loaded, as Python for its model card."""

from __future__ import annotations

from typing import Any


def usage(record: dict[str, Any]) -> str:
    """Return Python that loads an exported folder."""
    place = '"."  # this folder, or its name on the hub'
    longest = record["longest"]
    if record["format"] == "safetensors":
        return (
            f"import json\nfrom safetensors.torch import load_file\n\nfolder = {place}\n"
            'tensors = load_file(f"{folder}/model.safetensors")\n'
            f'parts = json.load(open(f"{{folder}}/mtl_export.json"))["parts"]'
        )
    if record["format"] == "onnx":
        return (
            "import onnxruntime\nfrom transformers import AutoTokenizer\n\n"
            f"folder = {place}\ntokenizer = AutoTokenizer.from_pretrained(folder)\n"
            'session = onnxruntime.InferenceSession(f"{folder}/model.onnx")\n'
            'inputs = tokenizer(["a text"], truncation=True, padding=True, return_tensors="np")\n'
            f"{', '.join(record['outputs'])} = session.run(None, "
            f'{{name: inputs[name].astype("int64") for name in {record["inputs"]}}})'
        ).replace("logits = ", "(logits,) = " if len(record["outputs"]) == 1 else "logits = ")
    trust = ", trust_remote_code=True" if record["trust_remote_code"] else ""
    kind = record["kind"]
    if kind in ("SequenceClassification", "TokenClassification"):
        more = ", truncation=True)" if kind == "SequenceClassification" else ")"
        return (
            f"from transformers import pipeline\n\nfolder = {place}\n"
            f'model = pipeline("{record["pipeline"]}", model=folder{trust})\n'
            f'print(model("a text"{more})'
        )
    start = (
        f"from transformers import AutoModelFor{kind}, AutoTokenizer\n\nfolder = {place}\n"
        f"tokenizer = AutoTokenizer.from_pretrained(folder{trust})\n"
        f"model = AutoModelFor{kind}.from_pretrained(folder{trust})\n"
    )
    if kind == "QuestionAnswering":
        return start + (
            'inputs = tokenizer("a question", "a context", truncation="only_second", '
            'return_tensors="pt")\noutput = model(**inputs)\n'
            "print(output.start_logits, output.end_logits)"
        )
    if kind == "MultipleChoice":
        return start + (
            'choices = ["one ending", "another"]\n'
            'inputs = tokenizer(["a beginning"] * 2, choices, padding=True, return_tensors="pt")\n'
            "print(model(**{name: each[None] for name, each in inputs.items()}).logits)"
        )
    return start + (
        f'inputs = tokenizer("a text", truncation=True, max_length={longest}, '
        'return_tensors="pt", return_token_type_ids=False)\n'
        "print(tokenizer.batch_decode(model.generate(**inputs), skip_special_tokens=True))"
    )
