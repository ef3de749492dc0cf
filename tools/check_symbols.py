"""Exported names: public headers = symbol maps = what the built libraries export.

Part of check.py. A name is exported when a public header declares it with PSGD_API.
"""
import json
import os
import re
import subprocess

from check_text import blank, line_of

DECLARATION = re.compile(r'\bPSGD_API\b([^;{}]*);')
NAME = re.compile(r'\b(psgd_\w+)\s*\(')
DIRECTIVE = re.compile(r'^[ \t]*#(?:\\\n|[^\n])*', re.M)


class Library:
    def __init__(self, name, headers, map_path, version):
        self.name = name          # of the file, without .so
        self.headers = headers    # folder
        self.map_path = map_path
        self.version = version    # node of a new map


LIBRARIES = (
    Library('libpsgd', 'include/psgd', 'lib/psgd.map', 'LIBPSGD_0.1'),
    Library('libpsgd-experiment', 'include/psgd/experiment',
            'lib/experiment/psgd-experiment.map', 'LIBPSGD_EXPERIMENT_0.1'),
)
# pthread and dl are part of libc since glibc 2.34.
NEEDED = re.compile(r'^(libc|libm|libpthread|libdl|ld-linux[\w-]*)\.so(\.\d+)*$')
SANITIZER = re.compile(r'^(lib(asan|ubsan|tsan|lsan|gcc_s|rt|stdc\+\+)|libclang_rt[\w.-]*)\.so')
WRITABLE = re.compile(r'^\.(t?data|t?bss)$')


def declared(texts, folder, report=None):
    """{name: (header, line)} of the exported functions in a folder of headers."""
    names = {}
    for path in sorted(texts):
        if os.path.dirname(path) != folder or not path.endswith('.h'):
            continue
        text = blank(texts[path])
        text = DIRECTIVE.sub(lambda match: re.sub(r'[^\n]', ' ', match.group()), text)
        for match in DECLARATION.finditer(text):
            line = line_of(text, match.start())
            name = NAME.search(match.group(1))
            if name:
                names[name.group(1)] = (path, line)
                if report and not documented(texts[path], text, match):
                    report.error(path, line, f'{name.group(1)} has no comment before it')
            elif report:
                report.error(path, line, 'PSGD_API without the name of a function')
    return names


def documented(source, blanked, match):
    """A comment stands before the declaration's group, or behind it on its last line."""
    group = source.rfind('\n\n', 0, match.start()) + 1
    if '*/' in source[group:match.start()]:
        return True
    end = source.find('\n', match.end())
    return '/*' in source[match.end():end] and not blanked[match.end():end].strip()


def map_names(text):
    """[(name, line)] of the global names of a map, and its version node."""
    names, section = [], ''
    for number, line in enumerate(text.split('\n'), 1):
        word = line.strip().rstrip(';')
        if word in ('global:', 'local:'):
            section = word
        elif section == 'global:' and word and not word.startswith(('#', '/', '}')):
            names.append((word, number))
    return names


def map_text(version, names):
    return version + ' {\nglobal:\n' + ''.join(f'\t{name};\n' for name in sorted(names)) + \
        'local:\n\t*;\n};\n'


def write_maps(root):
    texts = {}
    for library in LIBRARIES:
        folder = os.path.join(root, library.headers)
        for name in os.listdir(folder) if os.path.isdir(folder) else []:
            if name.endswith('.h'):
                with open(os.path.join(folder, name), encoding='utf-8') as file:
                    texts[f'{library.headers}/{name}'] = file.read()
    for library in LIBRARIES:
        path = os.path.join(root, library.map_path)
        version = library.version
        if os.path.exists(path):
            with open(path, encoding='utf-8') as file:
                version = file.readline().split()[0]
        names = declared(texts, library.headers)
        if names:
            with open(path, 'w', encoding='utf-8') as file:
                file.write(map_text(version, names))
            print(f'{library.map_path}: {len(names)} names')


def check_maps(root, texts, report):
    """Headers against maps; each exported name is documented, and named by a test."""
    tests = '\n'.join(text for path, text in texts.items() if path.startswith('tests/'))
    tested = set(re.findall(r'\bpsgd_\w+', tests))
    for library in LIBRARIES:
        names = declared(texts, library.headers, report)
        if library.map_path not in texts:
            if names:
                report.error(library.map_path, 1, 'no such file; run tools/check.py --write-map')
            continue
        listed = map_names(texts[library.map_path])
        lines = dict(listed)
        for name, line in listed:
            if name not in names:
                report.error(library.map_path, line,
                             f'{name} is not declared with PSGD_API in {library.headers}')
        for name, (path, line) in names.items():
            if name not in lines:
                report.error(path, line, f'{name} is missing in {library.map_path}')
            if name not in tested:
                report.warn(path, line, f'no test names {name}')
        order = [name for name, _ in listed]
        if order != sorted(set(order)):
            report.error(library.map_path, 1, 'names are not sorted, or one is there twice')


# Built libraries

def run_tool(*command):
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def exported(path):
    """{name without its version} that a shared object defines for others."""
    names = set()
    for line in run_tool('nm', '-D', '--defined-only', path).splitlines():
        fields = line.split()
        if len(fields) == 3 and fields[1] != 'A':  # A: the version node itself
            names.add(fields[2].split('@')[0])
    return names


def undefined(path):
    return {line.split()[-1].split('@')[0]
            for line in run_tool('nm', '-D', '--undefined-only', path).splitlines()}


def needed(path):
    return re.findall(r'\(NEEDED\).*\[(.*)\]', run_tool('readelf', '-dW', path))


def variables(path):
    """Names of variables in writable sections, the C runtime's own left out."""
    sections = dict(re.findall(r'^\s*\[\s*(\d+)\]\s+(\S+)', run_tool('readelf', '-SW', path), re.M))
    found = []
    for line in run_tool('readelf', '-sW', path).splitlines():
        fields = line.split()
        if len(fields) == 8 and fields[3] in ('OBJECT', 'TLS') and \
                WRITABLE.match(sections.get(fields[6], '')):
            name = fields[7].split('@')[0]
            if not re.match(r'(completed\.\d+|__dso_handle|__TMC_END__)$', name):
                found.append(name)
    return sorted(set(found))


def sanitized(build):
    path = os.path.join(build, 'meson-info', 'intro-buildoptions.json')
    if not os.path.exists(path):
        return False
    with open(path, encoding='utf-8') as file:
        options = {option['name']: option['value'] for option in json.load(file)}
    return options.get('b_sanitize', 'none') not in ('none', '', [])


def built(build):
    """{file name: path} of the shared objects of a build folder."""
    found = {}
    for folder, subfolders, names in os.walk(build):
        subfolders[:] = [name for name in subfolders if not name.endswith('.p')]
        for name in names:
            if re.fullmatch(r'(lib)?psgd[\w-]*\.so', name):
                found[name] = os.path.join(folder, name)
    return found


def check_build(root, texts, build, report):
    objects = built(build)
    if 'libpsgd.so' not in objects:
        report.error(build, 0, 'no libpsgd.so here; build first')
        return
    for library in LIBRARIES:
        path = objects.get(library.name + '.so')
        if path and library.map_path in texts:
            compare_exports(library, texts, path, os.path.relpath(path, root), report)
    shown = os.path.relpath(objects['libpsgd.so'], root)
    with_sanitizer = sanitized(build)
    for name in needed(objects['libpsgd.so']):
        if not NEEDED.match(name) and not (with_sanitizer and SANITIZER.match(name)):
            report.error(shown, 0, f'needs {name}; libpsgd links libc, libm and pthread only')
    if not with_sanitizer:
        for name in variables(objects['libpsgd.so']):
            report.error(shown, 0, f'variable {name} lives as long as the process: no globals')
    for name, path in sorted(objects.items()):
        if name.startswith('psgd-'):
            check_module(path, os.path.relpath(path, root), report)


def compare_exports(library, texts, path, shown, report):
    listed = {name for name, _ in map_names(texts[library.map_path])}
    names = exported(path)
    for name in sorted(listed - names):
        report.error(shown, 0, f'{name} is in {library.map_path} and is not defined')
    for name in sorted(names - listed):
        report.error(shown, 0, f'exports {name}, which is not in {library.map_path}')


def check_module(path, shown, report):
    names = exported(path)
    if len(names) != 1:
        report.error(shown, 0, f'a module exports one name; this one exports {len(names)}: ' +
                     ', '.join(sorted(names)[:4]))
    for name in sorted(undefined(path)):
        if name.startswith('psgd_'):
            report.error(shown, 0, f'imports {name}; a module imports nothing from libpsgd')
