"""Prints what pip is to install for the build, for Flower itself, and for the extras named."""

import configparser
import sys
import tomllib

config = configparser.ConfigParser()
config.read("setup.cfg", encoding="utf-8")
with open("pyproject.toml", "rb") as file:
    needed = tomllib.load(file)["build-system"]["requires"]
needed += config["options"]["install_requires"].split("\n")
for extra in sys.argv[1:]:
    needed += config["options.extras_require"][extra].split("\n")
print("\n".join(line for line in needed if line))
