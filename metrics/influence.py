"""The metrics that ask a model, and not the annotation."""

INFLUENCE = (
    "tail_patch", "tail_patch_log", "opponent_tail_patch", "opponent_tail_patch_log",
    "removal_effect", "removal_effect_log", "lds", "qld",
)  # fmt: skip
