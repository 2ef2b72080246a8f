"""Words in the names of files and folders that tell a split, in whatever layout."""

SPLIT_OF = {
    **dict.fromkeys(("train", "training", "trainset"), "train"),
    **dict.fromkeys(
        ("val", "valid", "validation", "validate", "valset", "dev", "devset", "development"), "val"
    ),
    "trainval": "trainval",
    **dict.fromkeys(("test", "testing", "testset"), "test"),
    **dict.fromkeys(("eval", "evaluation"), "val"),
}
"""The split of each word, in lower case; of several words for one split the first is looked for first."""

SPLIT_ORDER = tuple(dict.fromkeys(SPLIT_OF.values()))
