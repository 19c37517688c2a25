"""The things to look at in the metrics of RL: which numbers, which threshold, and what to do.

The thresholds are rules of thumb. They say where to look, not what is wrong.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean, median

GOOD, WARN, BAD, PLAIN, MISSING = "good", "warn", "bad", "plain", "missing"
"""Status of a line. `plain` has no threshold. `missing` has no values."""
RECENT = 10
"""Values are means over this many last updates."""
Judge = Callable[[list[float]], str]
"""A function that gets the values of all updates, and returns the status."""


def above(warn: float, bad: float) -> Judge:
    """Return a judge that warns if the mean of the last updates is above `warn`."""

    def judge(values: list[float]) -> str:
        recent = fmean(values[-RECENT:])
        return BAD if recent > bad else WARN if recent > warn else GOOD

    return judge


def below(warn: float, bad: float) -> Judge:
    def judge(values: list[float]) -> str:
        recent = fmean(values[-RECENT:])
        return BAD if recent < bad else WARN if recent < warn else GOOD

    return judge


def ever_above(warn: float, bad: float) -> Judge:
    """Return a judge that warns if one of the last updates is above `warn`."""

    def judge(values: list[float]) -> str:
        recent = max(values[-RECENT:])
        return BAD if recent > bad else WARN if recent > warn else GOOD

    return judge


def falls_to(warn: float, bad: float) -> Judge:
    """Return a judge that warns if the mean of the last updates is below this share of the mean of the first ones."""

    def judge(values: list[float]) -> str:
        first = fmean(values[: min(RECENT, max(1, len(values) // 4))])
        share = fmean(values[-RECENT:]) / first if first > 0 else 1.0
        return BAD if share < bad else WARN if share < warn else GOOD

    return judge


def norms(values: list[float]) -> str:
    """Warn if the last gradient norm is 0, or ten times the usual one."""
    usual = median(values)
    return BAD if values[-1] == 0 else WARN if usual > 0 and values[-1] > 10 * usual else GOOD


def shares(values: list[float]) -> str:
    """Warn if (almost) every trajectory stops, or none does."""
    recent = fmean(values[-RECENT:])
    return WARN if recent > 0.95 or recent == 0 else GOOD


def lengths(values: list[float]) -> str:
    """Warn if the length has changed by half since the first updates."""
    first, recent = fmean(values[: max(1, len(values) // 4)]), fmean(values[-RECENT:])
    return WARN if first > 0 and not 0.5 < recent / first < 1.5 else GOOD


def moved(values: list[float]) -> str:
    return BAD if values[-1] < 1e-4 else GOOD


def no_threshold(values: list[float]) -> str:
    return PLAIN


def shown(value: float) -> str:
    """Return a number as a short text with about three significant digits."""
    if value == 0:
        return "0"
    if 1e-3 <= abs(value) < 1e5:
        text = f"{value:.0f}" if abs(value) >= 1000 or value == int(value) else f"{value:.3g}"
    else:
        text = f"{value:.1e}".replace("e-0", "e-").replace("e+0", "e").replace("e+", "e")
    return text.replace("-", "\N{MINUS SIGN}") if text.startswith("-") else text


def percent(value: float) -> str:
    return f"{100 * value:.1f}\N{NARROW NO-BREAK SPACE}%"


def newest(values: list[float]) -> float:
    return values[-1]


def recent_mean(values: list[float]) -> float:
    return fmean(values[-RECENT:])


def largest(values: Sequence[float]) -> float:
    return max(values)


@dataclass(frozen=True)
class HealthCheck:
    """One thing to look at. `pattern` matches the names of logged numbers, and `named` is such a name for people.
    Numbers of one update are joined by `join`. `limit` says the threshold in words, and `words` says what the number
    means and what to do."""

    title: str
    named: str
    pattern: str
    judge: Judge
    limit: str
    words: str
    join: Callable[[Sequence[float]], float] = fmean
    show: Callable[[float], str] = shown
    each: bool = False  # show and judge every matching number by itself; the worst one decides
    value: Callable[[list[float]], float] = recent_mean


_EITHER = r"(?:text|image)/turn\d+/"
_EXPERTS = "und|gen|vision|total"
CHECKS = (
    HealthCheck(
        "Groups with a spread in reward", "drawn/spread", r"drawn/spread", below(0.4, 0.2), "at least 40 %",
        "Share of sampled groups whose samples differ in reward. All other groups teach nothing. If it is low: prompts "
        "of another difficulty, larger groups, or a judge with less noise.", show=percent,
    ),
    HealthCheck(
        "Entropy of texts", "text/turnK/entropy", r"text/turn\d+/entropy", falls_to(0.5, 0.2),
        "at least half of its first value",
        "Nats per token. If it collapses, all samples of a prompt say the same, and groups lose their spread. Then: a "
        "higher temperature, a smaller rate, or rl.kl_text.", each=True,
    ),
    HealthCheck(
        "Approximate KL", "text/turnK/approx_kl, image/turnK/approx_kl", _EITHER + "approx_kl", above(0.02, 0.1),
        "at most 0.02",
        "Distance of the trained policy from the policy that sampled. It is 0 if each sample is used for one step by "
        "the weights that sampled it.", join=largest, each=True,
    ),
    HealthCheck(
        "Share of clipped ratios", "text/turnK/clipfrac, image/turnK/clipfrac", _EITHER + "clipfrac", above(0.2, 0.4),
        "at most 20 %",
        "Share of tokens and denoising steps whose ratio of new to old policy left the clip range. If it is high: "
        "fewer minibatches, or a smaller rate.", join=largest, show=percent, each=True,
    ),
    HealthCheck(
        "Largest ratio", "text/turnK/ratio_max, image/turnK/ratio_max", _EITHER + "ratio_max", ever_above(3.0, 10.0),
        "at most 3",
        "Largest ratio of new to old policy in an update. A ratio far from 1 before the first step means that sampler "
        "and learner do not compute the same log-probabilities.", join=largest, each=True,
    ),
    HealthCheck(
        "Gradient norm per expert", "grad_norm/und, gen, vision", rf"grad_norm/(?:{_EXPERTS})", norms,
        "not 0, and below ten times the median",
        "Norm before clipping. und is the expert for understanding, gen the one for images. 0 means that this part "
        "does not learn.", join=largest, each=True,
    ),
    HealthCheck(
        "Gradient norm per term of the loss", "grad_norm/TERM, which rl.probe_every asks for",
        rf"grad_norm/(?!(?:{_EXPERTS})$).+", no_threshold, "",
        "Norm of the text loss and of the image loss alone, in each expert.", join=largest, each=True,
    ),
    HealthCheck(
        "Largest step of a weight", "step/largest", r"step/largest", moved, "at least 0.0001",
        "Largest |dw| / |w| of a tensor since RL began. If it is tiny, the weights have not moved: look at the rate, "
        "its warm-up and the clipping of gradients.", value=newest,
    ),
    HealthCheck(
        "Skipped updates", "skipped", r"skipped", above(0.0, 0.1), "none",
        "Share of updates in which nothing could be trained.", show=percent,
    ),
    HealthCheck(
        "Trajectories stopped", "stopped", r"stopped", shares, "above 0 %, at most 95 %",
        "Share of trajectories that ended with \u201cnothing to change\u201d. If all stop at once, refinement is no "
        "longer trained.", show=percent,
    ),
    HealthCheck(
        "Text tokens per trajectory", "text_tokens", r"text_tokens", lengths, "within half of its first value",
        "If lengths run away, look at the text loss and the token limit.",
    ),
    HealthCheck(
        "Images per trajectory", "images", r"images", no_threshold, "",
        "Mean number of images. A shared image counts once.",
    ),
    HealthCheck(
        "Dropped samples", "dropped_samples", r"dropped_samples", above(0.0, 8.0), "none",
        "Samples per update without a score. A scorer failed; dropped.jsonl has the reasons.",
    ),
)  # fmt: skip
