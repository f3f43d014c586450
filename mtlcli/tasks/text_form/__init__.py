"""Tasks in the form of text: a prompt that a language model answers (`form=text`). Every task type
whose labels or answers have texts has this form. Imports no torch."""
