"""What `weft install` has inside is what the chart renders to now."""

import unittest

import render
import renderings


class Renderings(unittest.TestCase):
    def test_they_are_the_charts(self):
        self.assertEqual(renderings.stale(), [], "run tests/chart/renderings.py")

    def test_the_program_knows_the_same_stand_ins(self):
        program = (render.ROOT / "cli/src/install/rendering.rs").read_text()
        for value in renderings.STAND_INS.values():
            self.assertIn(f'"{value}"', program)


if __name__ == "__main__":
    unittest.main()
