"""Holds dashboards to Grafana's own published schema: each file given as an argument is decoded by
the package that Grafana generates from that schema, every value is compared with the type that the
schema has for it, and what the package encodes again must be what was read. Prints what is wrong;
the exit code is 1 if anything is."""

import enum
import inspect
import json
import sys
import typing

from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models import dashboard


def matches(value, wanted):
    """Whether a decoded value is of this type."""
    origin, parts = typing.get_origin(wanted), typing.get_args(wanted)
    if origin is typing.Union:
        return any(matches(value, part) for part in parts)
    if origin is typing.Literal:
        return value in parts
    if origin is list:
        return isinstance(value, list) and all(matches(item, parts[0]) for item in value)
    if origin is dict:
        return isinstance(value, dict)
    if wanted in (object, typing.Any):
        return True
    if inspect.isclass(wanted) and issubclass(wanted, enum.Enum):
        # The package keeps the texts and numbers of enumerations as they were read.
        return value in [member.value for member in wanted]
    if isinstance(value, dict) and hasattr(wanted, "from_json"):
        # Left undecoded by the package.
        decoded = wanted.from_json(value)
        wrong = list(wrong_types(decoded, "")) + list(differences(value, encoded(decoded), ""))
        return not wrong
    if wanted is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if wanted is int and isinstance(value, bool):
        return False
    return isinstance(value, wanted)


def wrong_types(value, path):
    """Every place at or below this one whose value is not of the schema's type."""
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield from wrong_types(item, f"{path}[{index}]")
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from wrong_types(item, f"{path}.{key}")
    elif hasattr(value, "to_json") and not isinstance(value, enum.Enum):
        for name, wanted in typing.get_type_hints(type(value)).items():
            item = getattr(value, name)
            if not matches(item, wanted):
                yield f"{path}.{name} is {item!r}, wanted {wanted}"
            yield from wrong_types(item, f"{path}.{name}")


def differences(read, written, path):
    """Every place whose value was lost or changed on the way through the schema."""
    if isinstance(read, dict) and isinstance(written, dict):
        for key, value in read.items():
            if key not in written:
                yield f"{path}.{key}: the schema has no such key"
            else:
                yield from differences(value, written[key], f"{path}.{key}")
    elif isinstance(read, list) and isinstance(written, list) and len(read) == len(written):
        for index, (one, other) in enumerate(zip(read, written)):
            yield from differences(one, other, f"{path}[{index}]")
    elif read != written:
        yield f"{path}: {read!r} became {written!r}"


def typed(panel, path):
    """A panel's options and field configuration must be of its own type, not just any object."""
    for part in (panel.options, panel.field_config.defaults.custom if panel.field_config else None):
        if isinstance(part, dict) and part:
            yield f"{path}: {panel.type_val} has no schema"


def encoded(decoded):
    """What the package writes, as plain JSON values."""
    return json.loads(json.dumps(decoded, cls=JSONEncoder))


def check(path):
    with open(path, encoding="utf-8") as file:
        read = json.load(file)
    decoded = dashboard.Dashboard.from_json(read)
    yield from wrong_types(decoded, path)
    for panel in decoded.panels:
        if isinstance(panel, dashboard.Panel):
            yield from typed(panel, f"{path}: {panel.title}")
    yield from differences(read, encoded(decoded), path)


def main():
    register_default_plugins()
    found = [line for path in sys.argv[1:] for line in check(path)]
    for line in found:
        print(line)
    if not found:
        print(f"{len(sys.argv) - 1} dashboards are as Grafana's schema wants them")
    sys.exit(1 if found or len(sys.argv) < 2 else 0)


if __name__ == "__main__":
    main()
