"""The ways to adapt a model that `experiment adapting` compares, by the names of its recording."""

BY_GATE = "experts that matter, by gate"
BY_TOKEN = "experts that matter, by token share"
BY_LOT = "as many experts, by lot"
ALL_SMALL = "all experts, rank 1"
ONE_FOR_ALL = "one LoRA for all experts"
ATTENTION = "attention"
ALL = "all experts, rank 4"
WHOLE = "experts that matter, whole"
EVERYTHING = "everything"

# LoRA that trains as many numbers as ALL_SMALL does, as nearly as a rank allows; the others train
# more.
EQUAL = (BY_GATE, BY_TOKEN, BY_LOT, ALL_SMALL, ONE_FOR_ALL, ATTENTION)
LARGER = (ALL, WHOLE, EVERYTHING)
WAYS = EQUAL + LARGER
BASE = BY_GATE  # what the others are compared with
MEASURES = ("task", "elsewhere", "at_equal_gain")  # the lower, the better
