#include "base/module.h"

#include <dlfcn.h>
#include <string.h>
#include <unistd.h>

#define PATH_BYTES 4096

/* The folder this library was loaded from. */
static bool own_folder(char *path, size_t bytes)
{
	static const char anchor;
	Dl_info info;
	const char *slash;

	if (!dladdr(&anchor, &info) || !info.dli_fname)
		return false;
	slash = strrchr(info.dli_fname, '/');
	if (!slash)
		psgd__text(path, bytes, ".");
	else
		psgd__text(path, bytes, "%.*s", (int)(slash - info.dli_fname), info.dli_fname);
	return true;
}

static bool find_file(const char *file, const char *folder, char *path, size_t bytes)
{
	char own[PATH_BYTES];

	if (folder) {
		psgd__text(path, bytes, "%s/%s", folder, file);
		return true;
	}
	if (!own_folder(own, sizeof(own)))
		return false;
	psgd__text(path, bytes, "%s/psgd/%s", own, file);
	if (access(path, F_OK))
		psgd__text(path, bytes, "%s/%s", own, file);
	return true;
}

psgd_status psgd__module_open(const struct psgd__module *module, const char *folder, void **library,
	void *entry, char *reason, size_t bytes)
{
	char path[PATH_BYTES + 64];
	void *symbol;

	*library = NULL;
	if (!find_file(module->file, folder, path, sizeof(path))) {
		psgd__text(reason, bytes, "cannot tell where the library is");
		return PSGD_ERR_UNSUPPORTED;
	}
	/* The code stays mapped: what a C++ runtime registered for a thread may outlive us. */
	*library = dlopen(path, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
	if (!*library) {
		psgd__text(reason, bytes, "no %s module: %s", module->what, dlerror());
		return PSGD_ERR_UNSUPPORTED;
	}
	symbol = dlsym(*library, module->entry);
	if (!symbol) {
		psgd__text(reason, bytes, "%s is of another version", path);
		psgd__module_close(*library);
		*library = NULL;
		return PSGD_ERR_UNSUPPORTED;
	}
	memcpy(entry, &symbol, sizeof(symbol));
	return PSGD_OK;
}

void psgd__module_close(void *library)
{
	if (library)
		dlclose(library);
}
