"""RESULTS.md in the making, for the scripts that measure."""

GPU = "\n## GPU"  # where the part of gpu.py begins, to the end of the file


class Report:
    """RESULTS.md in the making: sections, and the goals with what came of them."""

    def __init__(self):
        self.sections, self.goals, self.bars = [], [], []

    def table(self, title, about, header, rows):
        lines = [f"## {title}", "", *([about, ""] if about else [])]
        lines += markdown(header, rows)
        self.sections.append("\n".join(lines))
        print(self.sections[-1] + "\n", flush=True)

    def goal(self, goal, got, met):
        self.goals.append([goal, got, "yes" if met else "no"])

    def goals_table(self):
        return "\n".join(markdown(["goal", "measured", "met"], self.goals))

    def bar(self, label, seconds_per_frame, ours=False):
        self.bars.append((label, seconds_per_frame * 1e3, ours))


def markdown(header, rows):
    """The lines of a table."""
    head, *body = [f"| {' | '.join(map(str, row))} |" for row in [header, *rows]]
    return [head, "|" + "---|" * len(header), *body]


def sized(width, height, scale=4):
    return f"{width}x{height} -> {scale * width}x{scale * height}"
