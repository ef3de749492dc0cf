"""A small tree in which check.py finds nothing, for its tests to break."""
import os
import shutil
import tempfile
import unittest

import check
from check_text import Report

HEADER = '''/* A. SPDX-License-Identifier: MIT */
#ifndef A_H
#define A_H

#include <stdint.h>

#define PSGD_API __attribute__((visibility("default")))

/* Returns one. */
PSGD_API int psgd_one(void);

/* Two functions of one group. */
PSGD_API const char *psgd_name(int x);
PSGD_API int psgd_two(void); /* 2 */

#endif
'''
EXPERIMENT = '''/* B. SPDX-License-Identifier: MIT */
#include <psgd/a.h>

PSGD_API int psgd_load(void); /* loads */
'''
SOURCE = '''#include "engine/engine.h"

#include <stdio.h>

#include <psgd/a.h>

#include "base/base.h"
#include "transport/wire.h" // lower

struct ops {
\tvoid (*abort)(void *self);
};

/* exit(1); printf("no"); #include "cli/cli.h" */
static const char *text = "abort(); \\"puts(\\" #include <psgd/experiment/b.h>";

int engine(struct ops *ops)
{
\tops->abort(ops);
\treturn text[0]; // system("x")
}
'''
TREE = {
    'include/psgd/a.h': HEADER,
    'include/psgd/experiment/b.h': EXPERIMENT,
    'lib/psgd.map': 'V1 {\nglobal:\n\tpsgd_name;\n\tpsgd_one;\n\tpsgd_two;\nlocal:\n\t*;\n};\n',
    'lib/experiment/psgd-experiment.map': 'V1 {\nglobal:\n\tpsgd_load;\nlocal:\n\t*;\n};\n',
    'lib/base/base.h': '#include <stddef.h>\n',
    'lib/transport/wire.h': '#include "base/base.h"\n',
    'lib/shape/link.h': '#include "base/base.h"\n',
    'lib/engine/engine.h': '#include "shape/link.h"\n#include <transport/wire.h>\n',
    'lib/engine/engine.c': SOURCE,
    'lib/experiment/run.c': '#include <psgd/experiment/b.h>\n#include <stdio.h>\n\n'
                            '#include "engine/engine.h"\n',
    'cli/cli.h': '#include <psgd/experiment/b.h>\n',
    'cli/main.c': '#include "cli.h"\n',
    'examples/image/nn.h': '#include <psgd/a.h>\n',
    'examples/image/nn.c': '#include "nn.h"\n',
    'tests/engine/test_engine.c': '#include "engine/engine.h"\n'
                                  '/* psgd_one psgd_two psgd_name psgd_load, in /tmp/x */\n',
    'tests/image/test_nn.c': '#include "../../examples/image/nn.h"\n',
    'tools/x.sh': 'mktemp -t x.XXXXXX\n',
}


class Tree(unittest.TestCase):
    def setUp(self):
        self.root = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.root)
        for path, text in TREE.items():
            self.write(path, text)

    def write(self, path, text):
        full = os.path.join(self.root, path)
        os.makedirs(os.path.dirname(full), exist_ok=True)
        mode = 'wb' if isinstance(text, bytes) else 'w'
        with open(full, mode) as file:
            file.write(text)

    def report(self, build=None, with_format=False):
        report = Report()
        check.check_tree(self.root, report, build, with_format)
        return report

    def append(self, path, text):
        self.write(path, TREE[path] + text)

    def replace(self, path, old, new):
        self.assertIn(old, TREE[path])
        self.write(path, TREE[path].replace(old, new))

    def finds(self, path, line, words, **options):
        """Exactly one finding, at that place, that says these words."""
        errors = self.report(**options).errors
        self.assertEqual(len(errors), 1, errors)
        self.assertEqual(errors[0][:2], (path, line), errors)
        self.assertIn(words, errors[0][2])
