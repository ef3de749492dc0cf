/* The decimal point of what is read and written, for this thread. */
#ifndef PSGD_EXPERIMENT_C_LOCALE_H
#define PSGD_EXPERIMENT_C_LOCALE_H

#include <psgd/status.h>

/* Numbers in files and settings have a point whatever the program's locale is. Errors: NOMEM. */
struct psgd__c_locale {
	void *ours, *before;
};
psgd_status psgd__c_locale_enter(struct psgd__c_locale *locale);
void psgd__c_locale_leave(struct psgd__c_locale *locale);

#endif
