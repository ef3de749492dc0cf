#!/usr/bin/env python3
"""Tests of check.py: a small tree in order, then one breach of each rule in turn."""
import contextlib
import io
import os
import shutil
import subprocess
import unittest

import check
import check_symbols
import tap_unittest
from test_fixture import TREE, Tree


class Clean(Tree):
    def test_tree_in_order(self):
        report = self.report()
        self.assertEqual(report.errors, [])
        self.assertEqual(report.warnings, [])

    def test_build_folder_is_left_out(self):
        self.write('build-x/lib/base/bad.c', 'exit(1)')
        self.assertEqual(self.report().errors, [])

    def test_binary_file(self):
        self.write('tests/data/x.gz', b'\x1f\x8b\x08 \n ')
        self.assertEqual(self.report().errors, [])


class Ladder(Tree):
    def test_sibling(self):
        self.append('lib/transport/wire.h', '#include "shape/link.h"\n')
        self.finds('lib/transport/wire.h', 2, 'lib/transport may not include lib/shape/link.h')

    def test_sibling_by_relative_path(self):
        self.append('lib/transport/wire.h', '#include "../shape/link.h"\n')
        self.finds('lib/transport/wire.h', 2, 'lib/transport may not include lib/shape/link.h')

    def test_sibling_in_angles_after_a_comment(self):
        self.append('lib/transport/wire.h', '/* x */ # include <shape/link.h>\n')
        self.finds('lib/transport/wire.h', 2, 'lib/transport may not include lib/shape/link.h')

    def test_upward(self):
        self.append('lib/base/base.h', '#include "engine/engine.h"\n')
        self.finds('lib/base/base.h', 2, 'lib/base may not include')

    def test_library_sees_no_experiment_header(self):
        self.append('lib/engine/engine.h', '#include <psgd/experiment/b.h>\n')
        self.finds('lib/engine/engine.h', 3, 'lib/engine may not include')

    def test_core_header_sees_no_experiment_header(self):
        self.replace('include/psgd/a.h', '<stdint.h>', '<psgd/experiment/b.h>')
        self.finds('include/psgd/a.h', 5, 'include may not include')

    def test_public_header_sees_no_private_one(self):
        self.replace('include/psgd/a.h', '<stdint.h>', '"base/base.h"')
        self.finds('include/psgd/a.h', 5, 'include may not include lib/base/base.h')

    def test_public_header_needs_libc_only(self):
        self.replace('include/psgd/a.h', '<stdint.h>', '<yaml.h>')
        self.finds('include/psgd/a.h', 5, 'public header includes <yaml.h>')

    def test_command_sees_public_headers_only(self):
        self.append('cli/main.c', '#include "base/base.h"\n')
        self.finds('cli/main.c', 2, 'cli may not include lib/base/base.h')

    def test_example_sees_public_headers_only(self):
        self.append('examples/image/nn.c', '#include "../../lib/base/base.h"\n')
        self.finds('examples/image/nn.c', 2, 'examples/image may not include lib/base/base.h')

    def test_example_does_not_see_the_command(self):
        self.append('examples/image/nn.c', '#include "cli/cli.h"\n')
        self.finds('examples/image/nn.c', 2, 'examples/image may not include cli/cli.h')

    def test_test_of_one_room_does_not_see_another_example(self):
        self.append('tests/engine/test_engine.c', '#include "../../examples/image/nn.h"\n')
        self.finds('tests/engine/test_engine.c', 3, 'may not include examples/image/nn.h')

    def test_unknown_room(self):
        self.write('lib/util/x.c', '\n'.join(['int x;', '']))
        self.finds('lib/util/x.c', 1, 'not a room')

    def test_missing_header(self):
        self.append('lib/base/base.h', '#include "base/none.h"\n')
        self.finds('lib/base/base.h', 2, 'no file for #include')

    def test_public_header_in_quotes(self):
        self.append('lib/base/base.h', '#include "psgd/a.h"\n')
        self.finds('lib/base/base.h', 2, 'write <psgd/a.h>')


class Symbols(Tree):
    def test_name_missing_in_map(self):
        self.replace('lib/psgd.map', '\tpsgd_one;\n', '')
        self.finds('include/psgd/a.h', 10, 'psgd_one is missing in lib/psgd.map')

    def test_name_only_in_map(self):
        self.replace('lib/psgd.map', '\tpsgd_two;\n', '\tpsgd_three;\n\tpsgd_two;\n')
        self.finds('lib/psgd.map', 5, 'psgd_three is not declared')

    def test_name_in_the_wrong_map(self):
        self.replace('lib/experiment/psgd-experiment.map', 'psgd_load;\n',
                     'psgd_load;\n\tpsgd_one;\n')
        self.finds('lib/experiment/psgd-experiment.map', 4, 'psgd_one is not declared')

    def test_order_of_map(self):
        self.replace('lib/psgd.map', '\tpsgd_name;\n\tpsgd_one;\n', '\tpsgd_one;\n\tpsgd_name;\n')
        self.finds('lib/psgd.map', 1, 'not sorted')

    def test_no_comment(self):
        self.replace('include/psgd/a.h', '/* Returns one. */\n', '')
        self.finds('include/psgd/a.h', 9, 'psgd_one has no comment before it')

    def test_untested_name_is_a_warning(self):
        self.replace('tests/engine/test_engine.c', 'psgd_two', 'psgd_two_more')
        report = self.report()
        self.assertEqual(report.errors, [])
        self.assertEqual(report.warnings, [('include/psgd/a.h', 14, 'no test names psgd_two')])

    def test_write_map(self):
        self.write('lib/psgd.map', 'V7 {\n};\n')
        with contextlib.redirect_stdout(io.StringIO()):
            check_symbols.write_maps(self.root)
        self.assertEqual(self.report().errors, [])
        with open(os.path.join(self.root, 'lib/psgd.map')) as file:
            self.assertEqual(file.read(), TREE['lib/psgd.map'].replace('V1', 'V7'))


class Layout(Tree):
    def test_long_file(self):
        self.append('lib/base/base.h', 'int a;\n' * 600)
        self.finds('lib/base/base.h', 601, '601 lines, the limit is 600')

    def test_soft_limit_is_a_warning(self):
        self.append('lib/base/base.h', 'int a;\n' * 400)
        report = self.report()
        self.assertEqual(report.errors, [])
        self.assertEqual(report.warnings[0][:2], ('lib/base/base.h', 401))

    def test_long_public_header(self):
        self.append('include/psgd/a.h', 'struct a;\n' * 185)
        self.finds('include/psgd/a.h', 201, 'the limit is 200')

    def test_no_newline(self):
        self.append('cli/main.c', 'int a;')
        self.finds('cli/main.c', 2, 'no newline')

    def test_space_at_the_end(self):
        self.append('tools/x.sh', 'true \n')
        self.finds('tools/x.sh', 2, 'space at the end')

    def test_carriage_return(self):
        self.write('tools/x.sh', b'true\r\n')
        self.finds('tools/x.sh', 1, 'carriage return')

    def test_tab_where_spaces_are(self):
        self.append('tools/x.sh', '\ttrue\n')
        self.finds('tools/x.sh', 2, 'tab')

    def test_spaces_where_tabs_are(self):
        self.append('cli/main.c', '        int a;\n')
        self.finds('cli/main.c', 2, 'indented by spaces')

    def test_empty_line_of_a_macro(self):
        self.append('cli/main.c', '#define A \\\n' + ' ' * 20 + '\\\n\tint a;\n')
        self.assertEqual(self.report().errors, [])

    def test_long_line(self):
        self.append('cli/main.c', '// ' + 'x' * 98 + '\n')
        self.finds('cli/main.c', 2, 'longer than 100')

    def test_no_license_line(self):
        self.replace('include/psgd/a.h', 'SPDX-License-Identifier: MIT', '')
        self.finds('include/psgd/a.h', 1, 'SPDX')

    def test_unfinished(self):
        for word in ('TO' 'DO', 'FIX' 'ME', 'XX' 'X', 'HA' 'CK'):
            self.append('cli/main.c', f'/* {word}: later */\n')
            self.finds('cli/main.c', 2, word)

    def test_machine_path(self):
        for path in ('/tmp/x', '/work/x', '/home/x', '/root/x'):
            self.append('tools/x.sh', f'cat {path}\n')
            self.finds('tools/x.sh', 2, 'path of one machine')

    def test_not_utf8(self):
        self.write('README.md', b'a\n\xff\n')
        self.finds('README.md', 2, 'not UTF-8')

    @unittest.skipUnless(shutil.which('clang-format-14'), 'clang-format-14 is not installed')
    def test_format(self):
        self.write('.clang-format', 'BasedOnStyle: LLVM\nUseTab: Always\nIndentWidth: 8\n'
                   'SortIncludes: false\nBreakBeforeBraces: Linux\nColumnLimit: 100\n')
        self.append('cli/main.c', 'int  a;\n')
        self.finds('cli/main.c', 2, 'clang-format', with_format=True)


class Calls(Tree):
    def test_each_banned_call(self):
        for name in check.BANNED:
            self.append('lib/engine/engine.c', f'int f(void)\n{{\n\t{name}(0);\n}}\n')
            self.finds('lib/engine/engine.c', 24, f'{name}()')

    def test_with_space_and_prefix(self):
        self.append('lib/engine/engine.c', 'int f(void)\n{\n\tstd::abort ();\n}\n')
        self.finds('lib/engine/engine.c', 24, 'abort()')

    def test_standard_stream(self):
        self.append('lib/experiment/run.c', 'int f(void)\n{\n\tfputs("", stderr);\n}\n')
        self.finds('lib/experiment/run.c', 7, 'stderr')

    def test_longer_names_are_others(self):
        self.append('lib/engine/engine.c', 'int f(void)\n{\n\tsnprintf(0);\n\tmy_exit(0);\n'
                    '\to.exit(0);\n\to->exit(0);\n\texit_code(0);\n}\n')
        self.assertEqual(self.report().errors, [])

    def test_command_may_print(self):
        self.append('cli/main.c', 'int f(void)\n{\n\tprintf("x");\n}\n')
        self.assertEqual(self.report().errors, [])

    def test_environment_where_it_is_allowed(self):
        text = 'int f(void)\n{\n\tgetenv("RANK");\n}\n'
        self.write('lib/experiment/launch.c', text)
        self.assertEqual(self.report().errors, [])
        self.append('lib/experiment/run.c', text)
        self.finds('lib/experiment/run.c', 7, 'getenv()')

    def test_the_whole_environment(self):
        text = 'int f(void)\n{\n\treturn environ[0] != 0;\n}\n'
        self.write('lib/experiment/run_manifest.c', text)
        self.assertEqual(self.report().errors, [])
        self.append('lib/engine/engine.c', 'int f(void)\n{\n\treturn environment || x.environ;\n}\n')
        self.assertEqual(self.report().errors, [])
        self.append('lib/experiment/run.c', text)
        self.finds('lib/experiment/run.c', 7, 'environ')

    def test_decisions_are_pure(self):
        for call in ('psgd__now_ns()', 'clock_gettime(0, 0)', 'time(0)', 'rand()', 'srandom(1)',
                     'drand48()', 'fopen("a", "r")', 'read(0, 0, 0)', 'psgd__philox_words(0)'):
            text = f'int f(void)\n{{\n\t{call};\n}}\n'
            self.write('lib/control/choice.c', text)
            self.finds('lib/control/choice.c', 3, call[:call.index('(')])
            self.write('lib/control/choice.c', '\n')
            self.write('lib/engine/clock.c', text)
            self.assertEqual([], [e for e in self.report().errors if 'decision' in str(e)])
        self.write('lib/control/choice.c',
                   'int f(void)\n{\n\treader->read(0);\n\tround_time(0);\n\tspread(0);\n}\n')
        self.assertEqual([], [e for e in self.report().errors if 'decision' in str(e)])

    def test_records_are_written_by_fprintf(self):
        self.append('lib/experiment/run.c', 'int f(FILE *o)\n{\n\tfprintf(o, "x");\n}\n')
        self.assertEqual(self.report().errors, [])


LIBRARY = '''int psgd_one(void) { return 1; }
const char *psgd_name(int x) { return x ? "a" : "b"; }
int psgd_two(void) { return 2; }
'''


class Built(Tree):
    """Libraries made by the compiler that the tests are run with."""

    def compile(self, name, code, *flags, exported=None):
        source = os.path.join(self.root, 'build', name + '.c')
        self.write('build/' + name + '.c', code)
        if exported is not None:
            self.write('build/' + name + '.map', check_symbols.map_text('V1', exported))
            flags += ('-Wl,--version-script,' + source[:-2] + '.map',)
        subprocess.run([*os.environ.get('CC', 'cc').split(), '-shared', '-fPIC', '-w', source,
                        '-o', os.path.join(self.root, 'build', name + '.so'), *flags], check=True)

    def build(self, code=LIBRARY, *flags, exported=('psgd_name', 'psgd_one', 'psgd_two')):
        self.compile('libpsgd', code, *flags, exported=exported)

    def finds_in(self, file, words):
        build = os.path.join(self.root, 'build')
        self.finds(f'build/{file}', 0, words, build=build)

    def test_in_order(self):
        self.build()
        self.compile('libpsgd-experiment', 'int psgd_load(void) { return 1; }',
                     exported=['psgd_load'])
        self.compile('psgd-x', 'int psgd_module_1;', exported=['psgd_module_1'])
        self.assertEqual(self.report(build=os.path.join(self.root, 'build')).errors, [])

    def test_nothing_built(self):
        build = os.path.join(self.root, 'build')
        self.finds(build, 0, 'no libpsgd.so', build=build)

    def test_not_defined(self):
        self.build(LIBRARY.replace('psgd_two', 'psgd_other'), exported=['psgd_name', 'psgd_one'])
        self.finds_in('libpsgd.so', 'psgd_two is in lib/psgd.map and is not defined')

    def test_exports_too_much(self):
        self.build(LIBRARY + 'int helper(void) { return 0; }\n',
                   exported=['psgd_name', 'psgd_one', 'psgd_two', 'helper'])
        self.finds_in('libpsgd.so', 'exports helper')

    def test_experiment_exports_too_much(self):
        self.build()
        self.compile('libpsgd-experiment', 'int psgd_load(void) { return 1; }\nint x(void);'
                     'int x(void) { return 0; }')
        self.finds_in('libpsgd-experiment.so', 'exports x')

    def test_needs_another_library(self):
        self.compile('libother', 'int other(void) { return 1; }')
        self.build(LIBRARY + 'int other(void);\nstatic int use(void) { return other(); }\n'
                   'int (*const psgd__keep)(void) = use;\n', '-Wl,--no-as-needed',
                   os.path.join(self.root, 'build', 'libother.so'))
        self.finds_in('libpsgd.so', 'libother.so; libpsgd links')

    def test_global_variable(self):
        self.build(LIBRARY + 'static int calls = 3;\nint psgd__f(void) { return calls++; }\n')
        self.finds_in('libpsgd.so', 'variable calls')

    def test_constant_table_is_no_variable(self):
        self.build(LIBRARY + 'const char *const psgd__t[2] = {"a", "b"};\n')
        self.assertEqual(self.report(build=os.path.join(self.root, 'build')).errors, [])

    def test_module_with_two_names(self):
        self.build()
        self.compile('psgd-x', 'int a(void) { return 1; }\nint b(void) { return 2; }\n')
        self.finds_in('psgd-x.so', 'exports 2: a, b')

    def test_module_that_imports(self):
        self.build()
        self.compile('psgd-x', 'int psgd_one(void);\nint a(void) { return psgd_one(); }\n')
        self.finds_in('psgd-x.so', 'imports psgd_one')


if __name__ == '__main__':
    tap_unittest.main()
