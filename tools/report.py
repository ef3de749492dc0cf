#!/usr/bin/env python3
"""One page of figures over run folders: accuracy, speed, ranks and times, as means over the seeds.

usage: tools/report.py FOLDER... [-o FILE]

Writes an HTML file that needs no network and runs no script. Figures are made for each link. Needs
matplotlib (python3-matplotlib).
"""
import argparse
import html
import io
import os
import subprocess
import sys

import summary

STYLE = ('body{font-family:sans-serif;max-width:60em;margin:2em auto;padding:0 1em}'
         'table{border-collapse:collapse}td,th{padding:.2em .8em;text-align:right;'
         'border-bottom:1px solid #ccc}td:first-child,th:first-child{text-align:left}'
         'svg{max-width:100%;height:auto}')


def svg_of(figure):
    text = io.StringIO()
    figure.savefig(text, format='svg', metadata={'Date': None, 'Creator': None})
    return text.getvalue()[text.getvalue().index('<svg'):]


def table_of(head, rows):
    def line(tag, cells):
        return '<tr>' + ''.join(f'<{tag}>{html.escape(text)}</{tag}>' for text in cells) + '</tr>'
    return '<table>' + line('th', head) + ''.join(line('td', row) for row in rows) + '</table>'


def page_of(figures, runs, roots):
    """figures: the module, which is there only where matplotlib is."""
    parts = [table_of(figures.TABLE, figures.table(runs))]
    for link in figures.links(runs):
        some = figures.on_link(runs, link)
        parts.append(f'<h2>{html.escape(figures.link_name(link))}</h2>')
        made = [make(some) for make in (
            figures.accuracy_by_epoch, figures.accuracy_by_minutes, figures.speed_and_accuracy,
            figures.time_breakdown)]
        made += [figures.rank_over_time(run) for run in figures.changing(some)]
        parts += map(svg_of, made)
    title = html.escape(', '.join(roots))
    return ('<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
            '<meta http-equiv="Content-Security-Policy" '
            'content="default-src \'none\'; style-src \'unsafe-inline\'">'
            f'<title>{title}</title><style>{STYLE}</style></head>'
            f'<body><h1>{title}</h1>' + '\n'.join(parts) + '</body></html>\n')


def remedy(system='/usr/bin/python3'):
    """Packages are for the system's Python, which need not be the first in PATH."""
    if os.path.exists(system) and os.path.realpath(system) != os.path.realpath(sys.executable):
        look = [system, '-c', 'import matplotlib']
        if subprocess.run(look, capture_output=True, check=False).returncode == 0:
            return f'{system} has it, run {system} tools/report.py'
    return 'install python3-matplotlib'


def main(arguments):
    parser = argparse.ArgumentParser(prog='tools/report.py', description=__doc__.split('\n')[0])
    parser.add_argument('folders', metavar='FOLDER', nargs='+')
    parser.add_argument('-o', metavar='FILE', dest='out', default='report.html',
                        help='where to write it (report.html)')
    options = parser.parse_args(arguments)
    try:
        import figures
    except ImportError as error:
        print(f'report: {error} in {sys.executable}: {remedy()}', file=sys.stderr)
        return 1
    try:
        page = page_of(figures, figures.load(*options.folders), options.folders)
    except (summary.Unreadable, OSError) as error:
        print(f'report: {summary.reason(error)}', file=sys.stderr)
        return 1
    try:
        with open(options.out + '.new', 'w', encoding='utf-8') as file:
            file.write(page)
        os.replace(options.out + '.new', options.out)
    except OSError as error:
        print(f'report: {summary.reason(error, options.out)}', file=sys.stderr)
        return 1
    print(options.out)
    return 0


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
