/* Memory that grows and keeps nothing. SPDX-License-Identifier: MIT */
#include "room.h"

#include <stdlib.h>
#include <string.h>

bool room_for(void *memory, size_t *room, size_t n, size_t size)
{
	void *held;

	if (n <= *room)
		return true;
	memcpy(&held, memory, sizeof(held));
	free(held);
	held = calloc(n, size);
	memcpy(memory, &held, sizeof(held));
	*room = held ? n : 0;
	return held != NULL;
}
