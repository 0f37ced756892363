"""Reads docker-compose.yml as strictly as the test that runs it needs: prints the services as JSON.

    compose.py FILE NAME=VALUE...

A key that neither this program nor the test knows ends it with an error, so that nothing in the file
goes untested unseen. The arguments are the environment that variables of the file are taken from.
"""

import json
import re
import sys

import yaml

TOP = {"services", "volumes"}
SERVICE = {
    "image", "build", "init", "restart", "cap_drop", "security_opt", "command", "entrypoint",
    "environment", "depends_on", "ports", "volumes", "healthcheck", "profiles", "stop_grace_period",
}
CONDITIONS = {"service_started", "service_healthy", "service_completed_successfully"}
VARIABLE = re.compile(r"\$(?:(\$)|\{([A-Za-z_][A-Za-z0-9_]*)(?:(:-|:\?)([^}]*))?\}|(.))")


def fail(what):
    sys.exit(f"compose.py: {what}")


def fill_in(text, variables):
    """What compose makes of $$, ${NAME}, ${NAME:-default} and ${NAME:?error}."""

    def value(match):
        dollar, name, kind, word, other = match.groups()
        if dollar:
            return "$"
        if other is not None:
            fail(f"{text!r}: write $$ or ${{NAME}}")
        found = variables.get(name, "")
        if found or kind is None:
            return found
        if kind == ":?":
            fail(f"{name}: {word}")
        return word

    return VARIABLE.sub(value, text)


def walk(value, variables):
    if isinstance(value, str):
        return fill_in(value, variables)
    if isinstance(value, list):
        return [walk(item, variables) for item in value]
    if isinstance(value, dict):
        return {key: walk(item, variables) for key, item in value.items()}
    return value


def known(keys, allowed, where):
    unknown = sorted(key for key in keys if key not in allowed and not key.startswith("x-"))
    if unknown:
        fail(f"{where} has keys that this test does not know: {', '.join(unknown)}")


def words(value, where):
    if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
        fail(f"{where} is no list of strings")
    return value


def volume_of(text):
    """[NAME:]DIRECTORY[:ro]; without a name it is the container's own."""
    parts = text.removesuffix(":ro").split(":")
    return {"name": parts[0] if len(parts) > 1 else None, "directory": parts[-1]}


def service(name, given):
    known(given, SERVICE, f"service {name}")
    health = given.get("healthcheck", {})
    known(health, {"test", "interval", "timeout", "retries"}, f"the health check of {name}")
    test = words(health.get("test", ["CMD"]), f"the health check of {name}")
    if test[0] != "CMD":
        fail(f"the health check of {name} is no CMD")
    depends_on = {other: how["condition"] for other, how in given.get("depends_on", {}).items()}
    known(depends_on.values(), CONDITIONS, f"depends_on of {name}")
    environment = given.get("environment", {})
    for key, value in environment.items():
        if not isinstance(value, str):
            fail(f"{key} of {name} is no string: quote it")
    return {
        "command": words(given.get("entrypoint", []), name) + words(given.get("command", []), name),
        "environment": environment,
        "depends_on": depends_on,
        "health": test[1:],
        # Ports inside, of [ADDRESS:]OUTSIDE:INSIDE.
        "ports": [int(port.rsplit(":", 1)[1]) for port in given.get("ports", [])],
        "is_published_on_loopback": all(port.startswith("127.0.0.1:") for port in given.get("ports", [])),
        "volumes": [volume_of(volume) for volume in given.get("volumes", [])],
        "profiles": given.get("profiles", []),
    }


def main():
    path, pairs = sys.argv[1], sys.argv[2:]
    variables = dict(pair.split("=", 1) for pair in pairs)
    with open(path, encoding="utf-8") as file:
        document = yaml.safe_load(file)
    known(document, TOP, "the file")
    services = walk(document["services"], variables)
    json.dump({name: service(name, given) for name, given in services.items()}, sys.stdout)


main()
