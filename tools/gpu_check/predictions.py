"""What the model of the machine says a step should take (benches/predictions.toml), held against what it took."""

import dataclasses

try:
    import tomllib
except ImportError:  # Python before 3.11
    tomllib = None

# Beyond this factor the model of the machine is wrong somewhere, and the log must say where.
OFF = 1.5


@dataclasses.dataclass
class Told:
    unit: str
    value: float
    low: float
    high: float
    floor: float

    @property
    def off(self):
        return self.value > OFF * self.high or self.value < self.low / OFF

    def as_dict(self):
        return {**dataclasses.asdict(self), "off": self.off}

    def words(self):
        unit = self.unit.replace("_per_s", "/s")
        spread = f"{self.low:g}" if self.low == self.high else f"{self.low:g}–{self.high:g}"
        off = " — OFF BY MORE THAN 1.5 ×" if self.off else ""
        return f"{self.value:.4g} {unit}, expected {spread}, floor {self.floor:g}{off}"


class Predictions:
    def __init__(self, steps):
        self.steps = {step["name"]: step for step in steps}

    def of(self, name, result):
        step = self.steps.get(name.removeprefix("profile "))
        value = result.get(step["key"]) if step else None
        return None if value is None else Told(step["unit"], value, step["low"], step["high"], step["floor"])


def load(path):
    if tomllib is None or not path.is_file():
        return Predictions([])
    with open(path, "rb") as file:
        return Predictions(tomllib.load(file).get("step", []))
