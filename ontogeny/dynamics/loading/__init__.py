"""From files on this machine to a model and a tokenizer, or to one sentence that says why not."""
