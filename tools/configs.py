#!/usr/bin/env python
"""List the configs that come with the package. Every tool takes these names.

    python tools/configs.py
"""
import arguments


def parse_options():
    return arguments.Parser(description=__doc__).parse_args()


def main():
    arguments.show(arguments.run('configs', parse_options()))


if __name__ == '__main__':
    main()
