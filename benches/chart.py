"""A bar chart on a logarithmic axis, as SVG."""

from html import escape
from math import ceil, floor, log10

LEFT, RIGHT, ROW = 330, 90, 28


def chart(title, bars, path):
    """`bars`: (label, milliseconds, whether it is ours), from fast to slow."""
    low, high = floor(log10(min(ms for _, ms, _ in bars))), ceil(log10(max(ms for _, ms, _ in bars)))
    width, height = 900, 70 + ROW * len(bars)

    def x(ms):
        return LEFT + (width - LEFT - RIGHT) * (log10(ms) - low) / (high - low)

    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif">',
        "<style>text { font-size: 13px }</style>",
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
        f'<text x="10" y="22" font-weight="bold">{escape(title)}</text>',
    ]
    for power in range(low, high + 1):
        at = f"{x(10**power):.1f}"
        out.append(f'<line x1="{at}" y1="34" x2="{at}" y2="{height - 28}" stroke="#ddd"/>')
        out.append(f'<text x="{at}" y="{height - 10}" text-anchor="middle" fill="#555">{10**power:g} ms</text>')
    for row, (label, ms, ours) in enumerate(bars):
        top = 38 + ROW * row
        out.append(f'<text x="{LEFT - 8}" y="{top + 15}" text-anchor="end">{escape(label)}</text>')
        colour = "#1a7f5a" if ours else "#8a94a6"
        out.append(f'<rect x="{LEFT}" y="{top}" width="{x(ms) - LEFT:.1f}" height="{ROW - 8}" fill="{colour}"/>')
        text = f"{ms:.0f}" if ms >= 10 else f"{ms:.1f}"
        out.append(f'<text x="{x(ms) + 6:.1f}" y="{top + 15}">{text} ms</text>')
    path.write_text("\n".join([*out, "</svg>\n"]))
