"""Synthetic data sets with real noise, one function a family. Pure functions of a numpy Generator.

What a label depends on is drawn anew for every seed; which kind of dependence it is, is the family's. Columns are
rounded as they are printed before the label is made of them, so the bytes do not hang on the last bit of a host's
floating point.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta

import numpy as np

Row = list[str]


@dataclass(frozen=True)
class Table:
    """Columns of one length, and a label for every row, as they are printed."""

    columns: Mapping[str, Sequence[str]]
    labels: Sequence[str]
    # Rows [0, train) may be learned from; the others are asked for.
    train: int

    def rows(self) -> list[Row]:
        return [list(cells) for cells in zip(*self.columns.values(), strict=True)]


@dataclass(frozen=True)
class Family:
    """What the rows are, what is to be predicted and how well."""

    make: Callable[[np.random.Generator], Table]
    level: int
    about: str
    # Name and meaning of what is predicted.
    target: str
    meaning: str
    prediction: str
    metric: str
    bar: float
    # Meanings of the columns.
    columns: Mapping[str, str]
    # Columns of the training data that are not known for the rows that are asked for.
    late: tuple[str, ...] = ()


def _texts(values: np.ndarray, digits: int = 0) -> list[str]:
    return [f"{value:.{digits}f}" for value in values]


def _standard(values: np.ndarray) -> np.ndarray:
    return (values - values.mean()) / values.std()


def _chance(logits: np.ndarray, rng: np.random.Generator) -> list[str]:
    """Labels "1" with the probabilities that belong to the logits."""
    return _texts(rng.random(len(logits)) < 1 / (1 + np.exp(-logits)))


def _signs(rng: np.random.Generator, count: int) -> np.ndarray:
    return rng.integers(0, 2, count) * 2.0 - 1.0


def _rotation(rng: np.random.Generator, wide: int) -> np.ndarray:
    """[wide, wide], by plain arithmetic: a factorisation may differ between linear algebra libraries."""
    turned = np.eye(wide)
    for i in range(wide):
        for j in range(i):
            angle = rng.uniform(0, 2 * np.pi)
            c, s = np.cos(angle), np.sin(angle)
            turned[i], turned[j] = c * turned[i] - s * turned[j], s * turned[i] + c * turned[j]
    return turned


def churn(rng: np.random.Generator) -> Table:
    """Two classes: numbers, categories and one interaction; no column tells much alone."""
    n, train = 1800, 1100
    months = rng.integers(1, 73, n)
    fee = np.round(rng.gamma(4.0, 9.0, n) + 8, 2)
    data = np.round(rng.gamma(2.0, 6.0, n), 1)
    calls = rng.poisson(1.6, n)
    age = rng.integers(18, 80, n)
    contracts, payments = np.array(["monthly", "yearly", "two years"]), np.array(["card", "invoice", "transfer"])
    contract, payment = rng.integers(0, 3, n), rng.integers(0, 3, n)
    effects = rng.permutation([-1.2, 0.0, 1.2])
    payment_effects = rng.permutation([-0.8, 0.0, 0.8])
    a, b, c, d = _signs(rng, 4) * rng.uniform(0.95, 1.15, 4)
    logits = a * _standard(months) + b * _standard(np.log(fee)) + c * _standard(np.sqrt(calls))
    logits = logits + 0.8 * d * _standard(np.log1p(data)) + effects[contract] + payment_effects[payment]
    logits = 1.25 * (logits + 0.5 * _standard(months) * _standard(np.log(fee)))
    columns = {
        "months": _texts(months),
        "monthly_fee": _texts(fee, 2),
        "data_gb": _texts(data, 1),
        "support_calls": _texts(calls),
        "age": _texts(age),
        "contract": list(contracts[contract]),
        "payment": list(payments[payment]),
    }
    return Table(columns, _chance(logits - np.median(logits), rng), train)


BEANS = ("adzuki", "borlotti", "cannellini", "kidney", "mung")


def beans(rng: np.random.Generator) -> Table:
    """Five classes in eight correlated numbers; each number alone mixes most of them."""
    n, train, wide = 1500, 900, 8
    kind = rng.integers(0, len(BEANS), n)
    # A simplex: all pairs of classes are equally far apart.
    centres = 3.3 * _rotation(rng, wide)[: len(BEANS)]
    mixing = np.eye(wide) + 0.25 * rng.normal(size=(wide, wide))
    values = centres[kind] @ mixing + rng.normal(size=(n, wide)) @ mixing
    values = np.round(values * rng.uniform(0.5, 20.0, wide) + rng.uniform(10, 90, wide), 3)
    names = ("length", "width", "thickness", "weight", "hue", "gloss", "roundness", "speckle")
    columns = {name: _texts(values[:, i], 3) for i, name in enumerate(names)}
    return Table(columns, [BEANS[k] for k in kind], train)


def rent(rng: np.random.Generator) -> Table:
    """A number: area, a category with its own level and slope, and additive noise."""
    n, train = 1600, 1000
    names = np.array(["Altona", "Barmbek", "Eilbek", "Hamm", "Lurup", "Ottensen"])
    district = rng.integers(0, len(names), n)
    area = np.round(rng.gamma(9.0, 8.0, n) + 15, 1)
    year = rng.integers(1900, 2024, n)
    floor = rng.integers(0, 7, n)
    balcony, lift = rng.integers(0, 2, n), rng.integers(0, 2, n)
    metro = np.round(rng.gamma(2.0, 350.0, n) + 50)
    slopes = rng.permutation([8.0, 9.5, 11.0, 12.5, 14.0, 16.0])
    levels = rng.permutation([-220.0, -120.0, -40.0, 40.0, 120.0, 220.0])
    age = 2024 - year
    price = 150 + levels[district] + slopes[district] * area + rng.uniform(55, 75) * balcony
    price = price + rng.uniform(16, 22) * floor * lift - 8 * floor - rng.uniform(0.09, 0.12) * metro
    price = price - rng.uniform(3.0, 3.6) * age + 0.022 * age**2
    price = np.maximum(100, price + rng.normal(0, 55, n))
    columns = {
        "district": list(names[district]),
        "area_m2": _texts(area, 1),
        "year_built": _texts(year),
        "floor": _texts(floor),
        "balcony": _texts(balcony),
        "lift": _texts(lift),
        "metro_m": _texts(metro),
    }
    return Table(columns, _texts(price), train)


def fraud(rng: np.random.Generator) -> Table:
    """Two classes of which one is rare; cells are empty, and some of them because of the label's causes."""
    n, train = 4200, 2400
    amount = np.round(np.exp(rng.normal(3.4, 1.0, n)), 2)
    hour = rng.integers(0, 24, n)
    days = rng.integers(0, 1500, n)
    tries, distance = rng.poisson(1.0, n), np.round(rng.gamma(1.2, 60.0, n), 1)
    channels = np.array(["app", "phone", "shop", "web"])
    channel = rng.choice(4, n, p=[0.3, 0.1, 0.35, 0.25])
    hidden_phone = rng.random(n) < 0.12
    effects = rng.permutation([-2.0, 0.0, 1.5, 2.5])
    a, b, c = rng.uniform(1.9, 2.2, 3)
    night = (hour < 6).astype(float)
    logits = a * _standard(np.log(amount)) + b * _standard(np.sqrt(distance)) + 1.6 * _standard(tries)
    logits = 1.35 * (logits - c * _standard(np.sqrt(days)) + effects[channel] + 1.8 * night + 2.6 * hidden_phone)
    logits = logits - np.quantile(logits, 0.905)
    cells = {
        "amount": _texts(amount, 2),
        "hour": _texts(hour),
        "account_days": _texts(days),
        "failed_logins": _texts(tries),
        "distance_km": _texts(distance, 1),
        "channel": list(channels[channel]),
        "phone_days": _texts(rng.integers(0, 900, n)),
    }
    empty = {name: rng.random(n) < 0.06 for name in ("amount", "distance_km", "account_days")}
    empty["phone_days"] = hidden_phone
    for name, missing in empty.items():
        cells[name] = ["" if m else cell for m, cell in zip(missing, cells[name], strict=True)]
    return Table(cells, _chance(logits, rng), train)


FIRST_DAY = date(2023, 1, 2)


def demand(rng: np.random.Generator) -> Table:
    """A number per shop and day, asked for days after those of the training data: trend, week, year and promotion.

    The training data have a column that is only known afterwards and tells nearly all.
    """
    shops, days, train_days = ("east", "north", "south", "west"), 420, 336
    t = np.arange(days)
    weekday = t % 7
    week = rng.permutation([-22.0, -14.0, -7.0, 0.0, 8.0, 15.0, 24.0])
    parts, labels, sold_parts = [], [], []
    for number, _ in enumerate(shops):
        promotion = rng.random(days) < 0.2
        warmth = np.round(12 - 9 * np.cos(2 * np.pi * (t + 15) / 365.25) + rng.normal(0, 2.5, days), 1)
        level, slope = 70 + 28 * number + rng.uniform(-6, 6), rng.uniform(0.2, 0.24)
        mean = level + slope * t + week[weekday] + rng.uniform(28, 34) * promotion + 1.3 * (warmth - 12)
        sold = np.maximum(0, np.round(mean + rng.normal(0, 8.0, days)))
        parts.append((promotion, warmth))
        labels.append(sold)
        sold_parts.append(np.round(sold * 3.2 + rng.normal(0, 4.0, days), 2))
    order = [(day, shop) for day in range(days) for shop in range(len(shops))]
    columns = {
        "date": [(FIRST_DAY + timedelta(days=day)).isoformat() for day, _ in order],
        "shop": [shops[s] for _, s in order],
        "promotion": [f"{parts[s][0][day]:.0f}" for day, s in order],
        "temperature": [f"{parts[s][1][day]:.1f}" for day, s in order],
        "takings": [f"{sold_parts[s][day]:.2f}" for day, s in order],
    }
    return Table(columns, [f"{labels[s][day]:.0f}" for day, s in order], train_days * len(shops))


FAMILIES: dict[str, Family] = {
    "churn": Family(
        churn,
        level=1,
        about="customers of a mobile operator",
        target="left",
        meaning="1 when the customer left within the next three months, else 0",
        prediction="a number for every customer, larger for those who are more likely to leave (a probability will do)",
        metric="auc",
        bar=0.8,
        columns={
            "months": "months since the customer came",
            "monthly_fee": "monthly fee",
            "data_gb": "gigabytes used a month",
            "support_calls": "calls to the support in the last half year",
            "age": "age in years",
            "contract": "kind of contract",
            "payment": "how the customer pays",
        },
    ),
    "beans": Family(
        beans,
        level=0,
        about="photographed dry beans",
        target="variety",
        meaning=f"variety of the bean: {', '.join(BEANS)}",
        prediction="the name of a variety for every bean",
        metric="accuracy",
        bar=0.8,
        columns={
            name: f"{name} as the camera measured it, in units of its own"
            for name in ("length", "width", "thickness", "weight", "hue", "gloss", "roundness", "speckle")
        },
    ),
    "rent": Family(
        rent,
        level=1,
        about="flats",
        target="rent",
        meaning="monthly rent",
        prediction="the rent of every flat, a number",
        metric="rmse",
        bar=125.0,
        columns={
            "district": "part of the town",
            "area_m2": "area in square metres",
            "year_built": "year of construction",
            "floor": "floor, 0 for the ground floor",
            "balcony": "1 when there is a balcony, else 0",
            "lift": "1 when there is a lift, else 0",
            "metro_m": "metres to the next metro station",
        },
    ),
    "fraud": Family(
        fraud,
        level=2,
        about="card payments; few of them are frauds, and cells may be empty where a value is not known",
        target="fraud",
        meaning="1 when the payment turned out to be a fraud, else 0",
        prediction="0 or 1 for every payment, written just so",
        metric="f1",
        bar=0.55,
        columns={
            "amount": "amount",
            "hour": "hour of the day, 0 to 23",
            "account_days": "age of the account in days",
            "failed_logins": "failed logins before the payment",
            "distance_km": "distance to the last payment in kilometres",
            "channel": "where the payment was made",
            "phone_days": "days since the phone number was last changed",
        },
    ),
    "demand": Family(
        demand,
        level=2,
        about="what four shops sell a day; the rows that are asked for are of days after those of the training data",
        target="sold",
        meaning="pieces sold that day",
        prediction="the pieces sold for every row, a number",
        metric="rmse",
        bar=12.0,
        columns={
            "date": "day",
            "shop": "shop",
            "promotion": "1 when there was a promotion, else 0 (promotions are planned, so they are known in advance)",
            "temperature": "temperature in degrees Celsius (take it as a forecast)",
            "takings": "takings of the shop that day, known in the evening",
        },
        late=("takings",),
    ),
}
