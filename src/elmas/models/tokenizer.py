"""The project's tokenizer: a byte-level BPE, trained on the project's own text, with a ChatML chat template.

Training takes a fraction of a second and always gives the same result, so nothing is downloaded and nothing trained is
kept in the repository. Three choices serve prefix caching: every digit and every newline is a token of its own, and
special tokens split the text. A conversation that grows therefore keeps its first tokens, whatever follows.
"""

import hashlib
import json
import re
from functools import cache
from importlib import resources
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from elmas.models.phrases import phrases
from elmas.models.presets import TOKENIZER_VOCABULARY

PAD, START, END = "<|pad|>", "<|im_start|>", "<|im_end|>"
SPECIAL_TOKENS = (PAD, START, END)
_WORD = re.compile(r"\b[a-z]{2,}\b")
_DIGITS = frozenset("0123456789")


def corpus() -> list[str]:
    """Return the training text: the files in `text/`, by name, and generated phrases."""
    folder = resources.files("elmas.models") / "text"
    files = sorted((entry for entry in folder.iterdir() if entry.name.endswith(".txt")), key=lambda entry: entry.name)
    return [entry.read_text(encoding="utf-8") for entry in files] + phrases()


def chat_template() -> str:
    """Return the Jinja source of the chat template."""
    return (resources.files("elmas.models") / "chat_template.jinja").read_text(encoding="utf-8")


@cache
def train() -> Tokenizer:
    """Return the trained tokenizer, with exactly TOKENIZER_VOCABULARY tokens; callers must not change it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\n|[0-9]"), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=TOKENIZER_VOCABULARY,
        min_frequency=1,
        special_tokens=[AddedToken(token, normalized=False, special=True) for token in SPECIAL_TOKENS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    if tokenizer.get_vocab_size() != TOKENIZER_VOCABULARY:
        raise RuntimeError(
            f"training gave {tokenizer.get_vocab_size()} tokens, not {TOKENIZER_VOCABULARY}: the text is too short"
        )
    return tokenizer


def output_ids() -> list[int]:
    """Return the ids a random model may generate, in order: a space and a whole word of the training text, or a digit.

    Text made of these tokens alone is tokenized back to the same tokens, so an answer that returns as history has the
    ids that the server generated.
    """
    tokenizer = train()
    words = set(_WORD.findall("\n".join(corpus())))
    pieces = ((index, tokenizer.decode([index])) for index in range(tokenizer.get_vocab_size()))
    return [index for index, piece in pieces if (piece[:1] == " " and piece[1:] in words) or piece in _DIGITS]


def digest() -> str:
    """Return a hash of everything that the tokenizer's files are made from."""
    text = json.dumps([corpus(), chat_template(), SPECIAL_TOKENS, TOKENIZER_VOCABULARY])
    return hashlib.sha256(text.encode()).hexdigest()


def write_tokenizer(directory: Path, max_positions: int) -> None:
    """Write the tokenizer's files so that `transformers.AutoTokenizer` loads them; `max_positions` is in tokens."""
    train().save(str(directory / "tokenizer.json"))
    special = {"eos_token": END, "pad_token": PAD, "additional_special_tokens": [START]}
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": max_positions,
        "clean_up_tokenization_spaces": False,
        "chat_template": chat_template(),
        **special,
    }
    for name, content in (("tokenizer_config.json", config), ("special_tokens_map.json", special)):
        (directory / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def token_id(token: str) -> int:
    """Return the id of a special token; raises KeyError for text that is not one token."""
    index = train().token_to_id(token)
    if index is None:
        raise KeyError(token)
    return int(index)
