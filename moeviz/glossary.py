"""The words of the lab, each with one plain meaning and the notebook that introduces it.

`notebooks/glossary.md` is made from this list, and panels show it as hover text.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Term:
    """meaning: one or two sentences. notebook: where it is introduced, by its file's name. also:
    other ways to write it, in labels above all."""

    word: str
    meaning: str
    notebook: str
    also: tuple[str, ...] = ()


START, RACE, INSIDE = "00_start_here", "01_dense_vs_moe", "02_inside_a_layer"
ROUTING, OTHERS, TRAINED = "03_routing", "03b_who_else_chooses", "03c_trained_and_compared"
COLLAPSE, CAPACITY, SPECIALISATION = "04_collapse", "05_capacity", "07_specialisation"
HARDWARE, DEVICES = "08_hardware", "08b_many_devices"
FRONTIER, KERNELS = "09_frontier_models", "12_kernels"
FINE = "06_shared_and_fine_grained"
EFFICIENCY, COMPRESSION = "10_efficiency_frontier", "11_compression"
REAL, MANY = "13_real_models", "14_many_models_in_one"

TERMS = (
    Term("95 % interval", "Where a difference lies, as far as the seeds tell: of a hundred "
         "intervals that are made this way, about 95 hold the true difference.", RACE),
    Term("ablation", "A part of a model is left out and all the rest is kept, to see what it is "
         "worth.", SPECIALISATION),
    Term("active parameters", "The parameters that work on one token: all but the experts that "
         "its router does not choose.", RACE),
    Term("all-to-all", "Every device sends every other one a message of its own, all at the same "
         "time.", DEVICES),
    Term("arm", "One of the models that are trained for a comparison, with all its settings.",
         RACE),
    Term("as written", "An MoE layer with the output scale that the paper's formula gives it. With "
         "raw weights near 1/E its output starts many times too quiet.", TRAINED),
    Term("assignment", "A token and one of the experts that the router chooses for it. Where that "
         "has a slot, it is one row of the work of an MoE layer.", START),
    Term("backend", "The code that computes the experts for a plan. All backends give the same "
         "numbers up to rounding, at different speeds.", INSIDE),
    Term("balancer", "Decides which experts lie on which device, from the loads that they had, so "
         "that all devices get equally much to do.", DEVICES),
    Term("balancing loss", "A term added to the loss whose gradient lowers the scores of experts "
         "with many tokens. It is also called auxiliary loss.", COLLAPSE,
         ("auxiliary loss", "bal. loss")),
    Term("BF16", "A number format of 16 bits. FP8 has 8 bits, INT4 has 4.", HARDWARE),
    Term("Branch-Train-MiX", "Models that learned apart become one MoE: their FFNs are its "
         "experts, all else is averaged, and a router is trained.", MANY),
    Term("calibration text", "Text on which a method of compression looks at the model, to decide "
         "what may go. No final figure is measured on it.", COMPRESSION),
    Term("capacity", "The number of slots of each expert: the most tokens that it takes from one "
         "batch.", CAPACITY),
    Term("capacity factor", "The capacity as a multiple of the even share: factor 1 gives every "
         "expert exactly its even share of slots.", CAPACITY, ("factor",)),
    Term("causal", "A router is causal if the experts of a token never depend on tokens that come "
         "after it. Only then can a model write token by token with it.", OTHERS),
    Term("checkpoint", "The files of a trained model: its configuration and all its weights.",
         REAL),
    Term("co-activation", "How often two experts of a layer are chosen by the same token.",
         SPECIALISATION),
    Term("collapse", "Most tokens go to a few experts. A run counts as collapsed where half of the "
         "experts of a layer, or more, are dead at its end.", COLLAPSE),
    Term("combine", "The last step of an MoE layer: a token's expert outputs are multiplied by "
         "their weights and added.", INSIDE),
    Term("critical batch", "The batch size from which a step's arithmetic takes longer than "
         "reading the weights. The caches are left out: with them a step may still wait for "
         "memory.", HARDWARE),
    Term("dead expert", "An expert that gets less than a tenth of its even share of tokens.",
         COLLAPSE, ("dead experts",)),
    Term("dense twin", "A model without a router, with the same layers and with feed-forward "
         "networks as wide as the experts that one token visits. Both spend equally much on a "
         "token.", RACE),
    Term("dispatch", "The step that brings each token to its experts: the rows are sorted by "
         "expert.", INSIDE),
    Term("domain information", "How much the chosen expert tells of the kind of text, from 0 "
         "(nothing) to 1 (everything): their normalised mutual information.", COLLAPSE),
    Term("dropped", "A token is dropped by an expert that is full. Dropped by all its experts, it "
         "passes the layer on the residual path alone.", ROUTING),
    Term("Drop-Upcycling", "Upcycling in which a share of each copy's neurons is drawn anew, so "
         "that the experts differ from the start.", MANY),
    Term("entropy of the gate", "How undecided the router is about one token: 0 when one "
         "expert has all the probability, 1 when all have the same.", COLLAPSE),
    Term("even share", "The load of an expert when all experts get equally many tokens: T · K / E.",
         ROUTING, ("fair share",)),
    Term("expert", "One of several feed-forward networks in a layer. A token visits only the few "
         "that the router chooses for it.", START),
    Term("expert choice", "Each expert picks the tokens that it takes. The load is even, but the "
         "choice for a token depends on the other tokens, later ones included.", OTHERS),
    Term("expert parallelism", "The experts of a layer lie on different devices, and tokens travel "
         "to them and back.", DEVICES),
    Term("experts in effect", "The number of equally loaded experts with the same entropy of load: "
         "E when the load is even, 1 when one expert has everything.", COLLAPSE,
         ("effective experts",)),
    Term("fair scale", "Every feed-forward layer, dense or MoE, is multiplied by a fixed factor so "
         "that at the start its output varies as much as a dense one's. Without it, differences in "
         "loudness may look like differences between routers.", RACE),
    Term("false discovery rate", "Of all that is called a finding, the share that chance alone "
         "has made.", SPECIALISATION),
    Term("feed-forward network", "The part of a layer that works on each token by itself: two or "
         "three matrices with a nonlinear function between them.", START, ("FFN",)),
    Term("fingerprint", "A short code that is made from every byte of a text, or of a model's "
         "weights: where it is equal, two machines have the same text, or the same model.", RACE),
    Term("FLOPs", "Floating-point operations: additions and multiplications. FLOP/s is a speed, "
         "FLOPs are an amount.", RACE),
    Term("gate", "The matrix in a router that gives a token one score for each expert. One of an "
         "expert's own matrices bears the same name.", START, ("gate weights",)),
    Term("granularity", "Into how many pieces an expert is cut: with granularity 4 there are four "
         "times the experts, each a quarter as wide, and a token visits four times as many.",
         FINE, ("split m",)),
    Term("GQA", "Grouped-query attention: several query heads share one pair of key and value "
         "heads, so the cache is smaller.", FRONTIER),
    Term("grid intensity", "How much CO2 a kilowatt hour of electricity stands for, by the power "
         "plants of the grid that it comes from.", EFFICIENCY),
    Term("grouped GEMM", "One kernel for many matrix products of different heights, one for each "
         "expert.", KERNELS),
    Term("hidden state", "The vector of numbers that stands for a token between two layers.",
         START),
    Term("hit rate", "Of all experts that are asked for, the share that already lies on the "
         "device.", HARDWARE, ("hits, %",)),
    Term("Holm's correction", "The more comparisons a table has, the clearer a difference must be. "
         "Without it, some would look like an effect by chance.", TRAINED),
    Term("information loss", "What a dense mixture pays for a gate that is unsure of a token, or "
         "that leaves experts out: minus the information that experts and tokens share.",
         EFFICIENCY),
    Term("joule", "A unit of energy: what a watt gives in a second. A kilowatt hour is 3.6 million "
         "of them.", EFFICIENCY, ("joules",)),
    Term("kernel", "A function that runs on a GPU, as many programs side by side.", KERNELS),
    Term("KV cache", "The keys and values of all tokens so far, kept so that the next token need "
         "not compute them again.", HARDWARE, ("cache",)),
    Term("latency", "The time that a message takes however short it is.", DEVICES),
    Term("LFU", "A cache that gives up what was asked for least often.", HARDWARE),
    Term("lift", "How much more a domain uses an expert than the domains do in the mean: 1 is no "
         "liking, 2 is twice as much.", SPECIALISATION),
    Term("liking", "A lift of 1.5 or more, whether or not chance has made it.", SPECIALISATION),
    Term("load", "How many tokens an expert gets from a batch.", START),
    Term("logit lens", "The residual of any layer is read as if it were the last layer's, to see "
         "which words it makes likely.", SPECIALISATION),
    Term("logits", "The scores before the softmax: any real numbers, one for each choice.",
         INSIDE),
    Term("LoRA", "Low-rank adaptation: a trained matrix stays as it is, and the product of two "
         "thin matrices is added to it, which alone are trained.", MANY),
    Term("loud", "A layer is loud or quiet by the size of its output.", ROUTING, ("quiet",)),
    Term("low rank", "A matrix is replaced by the product of two thinner ones, which together are "
         "smaller.", COMPRESSION),
    Term("LRU", "A cache that gives up what was asked for longest ago.", HARDWARE),
    Term("MaxVio", "The largest load over the mean load, minus 1. It is 0 when the load is even, "
         "and E − 1 when one expert has all tokens.", ROUTING),
    Term("merging", "Several experts are replaced by one, whose weights are an average of theirs.",
         COMPRESSION, ("merge",)),
    Term("MFU", "Model FLOPs utilisation: the FLOPs that the model needs each second, as a share "
         "of the device's peak.", FRONTIER),
    Term("MLA", "Multi-head latent attention: the cache keeps one short vector for each token, "
         "from which keys and values are computed again, and a small rotary key.", FRONTIER),
    Term("multiplier", "How many times the compute, or the time, of a router the dense twin needs "
         "for the same loss. Above 1 the router is the cheaper one.", TRAINED),
    Term("MXFP4", "A 4-bit number format in which blocks of 32 numbers share a scale: 4.25 bits a "
         "number.", HARDWARE),
    Term("nats", "The unit of a loss with the natural logarithm. A loss lower by 0.1 nats per "
         "token means that the right token gets about 1.1 times the probability.", RACE,
         ("nats per token",)),
    Term("node", "Several devices in one machine, which are joined by fast links.", DEVICES),
    Term("node limit", "The most nodes that the experts of one token may lie on.", DEVICES),
    Term("normalised mutual information", "How much two labels tell of each other, divided by the "
         "entropy of one of them: 0 means nothing, 1 means everything.", COLLAPSE),
    Term("null", "What a figure would be if there were nothing to find, such as after a shuffle.",
         SPECIALISATION),
    Term("padding", "Rows that are computed only because a tile or a buffer must be full.",
         KERNELS),
    Term("perplexity", "The exponential of the loss: the model is as unsure as if it had to guess "
         "among so many equally likely tokens.", COLLAPSE),
    Term("plan", "The router's decision as a list of rows, one for each token and chosen expert, "
         "sorted by expert. It is all that the experts need to know.", INSIDE),
    Term("pool", "The tokens that compete for the same slots, such as a whole batch, or one "
         "sequence.",
         CAPACITY, ("slots for",)),
    Term("priority", "The order in which tokens get slots while there are any.", CAPACITY,
         ("first come",)),
    Term("program", "One of the many copies of a kernel that run side by side, each on its own "
         "part of the work.", KERNELS),
    Term("pruning", "Parts of a trained model are taken out, such as whole experts with their rows "
         "of the router.", COMPRESSION, ("prune",)),
    Term("PUE", "Power usage effectiveness: the power of a whole data centre over that of its "
         "computers.", FRONTIER),
    Term("quantile bias", "Like the sign bias, but each number is set so that the last batch would "
         "have been even.", COLLAPSE),
    Term("rank correlation", "How much two orders agree: 1 if they are the same, about 0 if one "
         "says nothing about the other.", TRAINED),
    Term("raw", "Weights as the softmax gives them, not renormalised. Their sum over the chosen "
         "experts is below 1.", INSIDE),
    Term("renormalised", "The weights of the chosen experts are divided by their sum, so that they "
         "add up to 1.", INSIDE, ("renormalise",)),
    Term("replay", "While a model learns something new, text that it has learnt already is put "
         "into each batch, so that it forgets less.", MANY),
    Term("replica", "One of several copies of an expert on different devices, which share its "
         "tokens.", DEVICES, ("replicas",)),
    Term("reserve", "Text that is kept for the final figures: neither training nor any choice has "
         "seen it.", TRAINED),
    Term("residual", "The path around a layer: the layer's output is added to its input.",
         ROUTING),
    Term("router", "The part of an MoE layer that chooses the experts of a token: a gate, and a "
         "rule for the choice.", START),
    Term("router saturation", "The share of a token's final experts that the router chooses "
         "already at an earlier step of training.", SPECIALISATION),
    Term("saliency", "A figure that says how much an expert is worth keeping.", COMPRESSION),
    Term("scaling law", "A formula for the loss of a model from its parameters and the tokens that "
         "it was trained on, fitted to many trainings.", EFFICIENCY),
    Term("scope", "The tokens over which a balancing loss asks for an even load: a whole batch, or "
         "each sequence.", COLLAPSE),
    Term("seed", "The number that random draws start from: the same seed gives the same start and "
         "the same batches.", RACE),
    Term("shared expert", "An expert that every token visits beside those that are chosen.",
         ROUTING),
    Term("sign bias", "A number for each expert that is added to its score for the choice alone. "
         "After each step it falls for busy experts and rises for the others.", COLLAPSE),
    Term("skew", "How unequal the experts' popularity is: the r-th most popular is asked for in "
         "proportion to 1 over r to the power of the skew.", CAPACITY),
    Term("slot", "A place for one token in an expert's buffer.", ROUTING, ("slots",)),
    Term("softmax", "Turns scores into positive numbers that sum to 1: probabilities.", INSIDE),
    Term("specialist", "An expert that gets 45 % or more of its assignments from one domain, where "
         "all domains are equally large.", SPECIALISATION, ("specialists",)),
    Term("split-half replication", "A finding is looked for in two halves of the data: what is "
         "real is in both.", SPECIALISATION),
    Term("SwiGLU", "The feed-forward network of most of today's models: one product is passed "
         "through SiLU and multiplied by a second one, and a third brings the result back.",
         KERNELS),
    Term("TDP", "Thermal design power: the heat, in watts, that a device's cooling is built "
         "for.", FRONTIER),
    Term("temperature", "The scores are divided by it before the softmax: above 1 the "
         "probabilities become more equal, below 1 less.", ROUTING),
    Term("tensor cores", "The parts of a GPU that multiply small matrices fast.", KERNELS),
    Term("tile", "A block of rows that one program of a kernel computes at once.", KERNELS,
         ("block_m",)),
    Term("token", "A piece of text that the model reads as one unit: a word, a part of a word, or "
         "a sign.", START),
    Term("top-k", "The K experts with the highest scores are chosen.", INSIDE, ("k", "choices k")),
    Term("trace", "A record of which experts each token of a text visited, layer by layer.", REAL,
         ("traces",)),
    Term("unigram", "A model that knows how often each token occurs, and nothing of the tokens "
         "before it.", EFFICIENCY),
    Term("upcycling", "A sparse model is made from a trained dense one: each expert begins as a "
         "copy of the FFN.", MANY),
    Term("validation loss", "The loss on text that training never sees: how surprised the model is "
         "by each next token, on average.", RACE),
    Term("verdict", "What the seeds show of a difference: lower, higher or open. Open means that "
         "no difference is shown, and not that there is none.", RACE),
    Term("warm restart", "The learning rate is set back to its start after it has fallen.",
         COLLAPSE),
    Term("z-loss", "A term added to the loss that keeps the logits of the router small.",
         COLLAPSE),
)  # fmt: skip

_BY_NAME = {name.lower(): term for term in TERMS for name in (term.word, *term.also)}


def meaning(name: str) -> str:
    """What a word of the glossary means, as hover text; empty where it is not one of them."""
    term = _BY_NAME.get(name.lower())
    return "" if term is None else f"{term.word}: {term.meaning}"


def as_markdown() -> str:
    """The page `notebooks/glossary.md`."""
    lines = [
        "# Glossary",
        "",
        "What the words of this lab mean. The last column is the notebook that introduces a word.",
        "",
        "| word | meaning | notebook |",
        "|-|-|-|",
    ]
    for term in sorted(TERMS, key=lambda term: term.word.lower()):
        link = f"[{term.notebook.partition('_')[0]}]({term.notebook}.ipynb)"
        lines.append(f"| **{term.word}** | {term.meaning} | {link} |")
    return "\n".join(lines) + "\n"
