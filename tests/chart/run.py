#!/usr/bin/env python3
"""Runs the tests of the chart, and prints a JSON object of name to what became of each: `ok`, `skipped:
WHY` or the text of a failure. --list prints their names, --processes what the programs of each case run
with."""

import collections
import json
import sys
import unittest
from pathlib import Path

HERE = Path(__file__).resolve().parent


def name(test):
    """`golden::Golden::there_are_enough`."""
    module, group, method = test.id().split(".")[:3]
    return "::".join([module.removeprefix("test_"), group, method.removeprefix("test_")])


def flat(suite):
    for test in suite:
        if isinstance(test, unittest.TestSuite):
            yield from flat(test)
        else:
            yield test


class Result(unittest.TestResult):
    """Texts by name; a test with subtests has those of all that failed."""

    def __init__(self):
        super().__init__()
        self.said = collections.defaultdict(list)
        self.words = {}

    def addSuccess(self, test):
        self.words.setdefault(name(test), "ok")

    def addSkip(self, test, reason):
        self.words[name(test)] = f"skipped: {reason}"

    def addFailure(self, test, error):
        self.said[name(test)].append(self._exc_info_to_string(error, test))

    addError = addFailure

    def addSubTest(self, test, subtest, error):
        if error:
            text = self._exc_info_to_string(error, test)
            self.said[name(test)].append(f"{subtest._subDescription()}\n{text}")


def main():
    suite = unittest.TestLoader().discover(str(HERE), top_level_dir=str(HERE))
    if sys.argv[1:] == ["--list"]:
        for test in flat(suite):
            if isinstance(test, unittest.loader._FailedTest):
                raise test._exception
            print(name(test))
        return
    if sys.argv[1:] == ["--processes"]:
        import common
        import matrix

        json.dump({case: common.processes(case) for case in matrix.CASES}, sys.stdout)
        return
    result = Result()
    suite.run(result)
    json.dump(result.words | {key: "\n".join(texts) for key, texts in result.said.items()}, sys.stdout)


if __name__ == "__main__":
    main()
