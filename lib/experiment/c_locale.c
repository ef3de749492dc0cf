#include "experiment/c_locale.h"

#include <locale.h>

psgd_status psgd__c_locale_enter(struct psgd__c_locale *locale)
{
	locale->ours = newlocale(LC_NUMERIC_MASK, "C", (locale_t)0);
	if (!locale->ours)
		return PSGD_ERR_NOMEM;
	locale->before = uselocale((locale_t)locale->ours);
	return PSGD_OK;
}

void psgd__c_locale_leave(struct psgd__c_locale *locale)
{
	uselocale((locale_t)locale->before);
	freelocale((locale_t)locale->ours);
}
