"""Checks of what is rendered for Kubernetes: schemas of the API, the values of the chart, what stands in a ConfigMap.

Owns: nothing but the answer. Does not: speak to a cluster. Needs kubernetes-validate, which brings the schemas.

  check.py manifests FILE VERSION...   every object, strictly: a field that there is not is an error
  check.py values SCHEMA FILE...       values against the chart's schema; the chart's own are first and complete
  check.py configs FILE FOLDER         writes the files of the ConfigMap into FOLDER and prints their names
"""

import json
import pathlib
import sys

import jsonschema
import kubernetes_validate
import yaml


def merged(into, more):
    for key, value in more.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            merged(into[key], value)
        else:
            into[key] = value
    return into


def documents(file):
    return [one for one in yaml.safe_load_all(pathlib.Path(file).read_text()) if one]


def manifests(file, *versions):
    found = documents(file)
    for one in found:
        for version in versions:
            kubernetes_validate.validate(one, version, strict=True)
    print(" ".join(one["kind"] for one in found))


def values(schema, *files):
    together = {}
    for file in files:
        merged(together, yaml.safe_load(pathlib.Path(file).read_text()))
    validator = jsonschema.Draft7Validator(json.loads(pathlib.Path(schema).read_text()))
    problems = [f"{'.'.join(map(str, error.path))}: {error.message}" for error in validator.iter_errors(together)]
    if problems:
        sys.exit("\n".join(problems))


def configs(file, folder):
    for one in documents(file):
        if one["kind"] == "ConfigMap":
            for name, text in one["data"].items():
                pathlib.Path(folder, name).write_text(text)
                print(name)


if __name__ == "__main__":
    {"manifests": manifests, "values": values, "configs": configs}[sys.argv[1]](*sys.argv[2:])
