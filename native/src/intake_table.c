#include "intake_table.h"

#include <errno.h>
#include <stdlib.h>

#define BITS_MIN 6

static size_t bucket_of(uint64_t key, unsigned int bits)
{
	return (size_t)((key * 0x9e3779b97f4a7c15u) >> (64 - bits));
}

struct intake_node *tf_intake_table_find(const struct intake_table *table, uint64_t key)
{
	struct intake_node *node;

	if (!table->buckets)
		return NULL;
	node = table->buckets[bucket_of(key, table->bits)];
	while (node && node->key != key)
		node = node->next;
	return node;
}

static int grow(struct intake_table *table)
{
	const unsigned int bits = table->buckets ? table->bits + 1 : BITS_MIN;
	struct intake_node **buckets = calloc((size_t)1 << bits, sizeof(struct intake_node *));

	if (!buckets)
		return -ENOMEM;
	for (size_t i = 0; table->buckets && i < (size_t)1 << table->bits; i++) {
		struct intake_node *node = table->buckets[i];

		while (node) {
			struct intake_node *next = node->next;
			const size_t bucket = bucket_of(node->key, bits);

			node->next = buckets[bucket];
			buckets[bucket] = node;
			node = next;
		}
	}
	free(table->buckets);
	table->buckets = buckets;
	table->bits = bits;
	return 0;
}

int tf_intake_table_insert(struct intake_table *table, struct intake_node *node)
{
	size_t bucket;

	if ((!table->buckets || table->count >= (size_t)1 << table->bits) && grow(table) < 0 && !table->buckets)
		return -ENOMEM;
	bucket = bucket_of(node->key, table->bits);
	node->next = table->buckets[bucket];
	table->buckets[bucket] = node;
	table->count++;
	return 0;
}

void tf_intake_table_remove(struct intake_table *table, struct intake_node *node)
{
	struct intake_node **link = &table->buckets[bucket_of(node->key, table->bits)];

	while (*link != node)
		link = &(*link)->next;
	*link = node->next;
	table->count--;
}

struct intake_node *tf_intake_table_any(const struct intake_table *table)
{
	for (size_t i = 0; table->count > 0 && i < (size_t)1 << table->bits; i++)
		if (table->buckets[i])
			return table->buckets[i];
	return NULL;
}

void tf_intake_table_free(struct intake_table *table)
{
	free(table->buckets);
	*table = (struct intake_table){ 0 };
}
