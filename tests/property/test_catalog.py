"""Shares of a product: kept by whoever has one, and as large as their weights."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from router.catalog.entries import Fallback, Product, Share
from router.catalog.resolving import Asker, choose_share, resolve, sticky_key

MODELS = st.lists(st.text("abcdefgh", min_size=1, max_size=8), min_size=1, max_size=6, unique=True)
KEYS = [f"session-{number}" for number in range(4000)]


@st.composite
def shares(draw: st.DrawFn) -> tuple[Share, ...]:
    models = draw(MODELS)
    weights = [draw(st.sampled_from([0.0, 0.5, 1.0, 3.0, 10.0])) for _ in models]
    weights[draw(st.integers(0, len(models) - 1))] = draw(st.sampled_from([1.0, 7.0]))
    return tuple(Share(model=m, weight=w) for m, w in zip(models, weights, strict=True))


def chosen(shares: tuple[Share, ...]) -> list[str]:
    return [choose_share("product", shares, key).model for key in KEYS]


@given(shares())
def test_shares_are_as_large_as_their_weights(shares: tuple[Share, ...]) -> None:
    counts = Counter(chosen(shares))
    total = sum(share.weight for share in shares)
    for share in shares:
        part = share.weight / total
        spread = (part * (1 - part) / len(KEYS)) ** 0.5
        assert abs(counts[share.model] / len(KEYS) - part) <= 6 * spread
        assert share.weight or not counts[share.model]


@given(shares(), st.randoms(use_true_random=False))
def test_the_order_of_shares_does_not_matter(shares: tuple[Share, ...], random: object) -> None:
    shuffled = list(shares)
    random.shuffle(shuffled)  # type: ignore[attr-defined]  # a Random
    assert chosen(shares) == chosen(tuple(shuffled))


@given(shares(), st.integers(0, 5), st.floats(1.1, 20))
def test_a_share_that_grows_takes_keys_and_moves_no_other(
    shares: tuple[Share, ...], place: int, factor: float
) -> None:
    grown = shares[place % len(shares)]
    after = tuple(
        Share(model=share.model, weight=share.weight * factor) if share is grown else share
        for share in shares
    )
    for was, now in zip(chosen(shares), chosen(after), strict=True):
        assert now in (was, grown.model)


@given(shares(), st.text(max_size=20), st.text(max_size=20), st.text(max_size=20))
def test_a_session_keeps_its_model_whatever_the_request(
    shares: tuple[Share, ...], key: str, session: str, request_id: str
) -> None:
    products = {"chat": Product(shares=shares, fallbacks=(Fallback(model="small"),))}
    plans = {resolve(products, "chat", Asker(one, key, session)).model for one in ("a", request_id)}
    assert len(plans) == 1
    assert resolve(products, "chat", Asker("a", key, session)).fallbacks[0].model == "small"


@given(st.text(max_size=20), st.text(max_size=20))
def test_what_a_choice_sticks_to_is_as_configured(key: str, session: str) -> None:
    asker = Asker("request", key, session)
    share = (Share(model="m"),)
    assert sticky_key(Product(shares=share, sticky="key"), asker) == key
    assert sticky_key(Product(shares=share, sticky="request"), asker) == "request"
    by_session = sticky_key(Product(shares=share), asker)
    assert by_session == f"{key}\x00{session}"
    assert sticky_key(Product(shares=share), Asker("request", key)) == key


@given(st.text(max_size=20))
def test_a_name_that_is_no_product_stands_for_itself(name: str) -> None:
    plan = resolve({}, name, Asker("r", "k"))
    assert (plan.model, plan.fallbacks) == (name, ())
