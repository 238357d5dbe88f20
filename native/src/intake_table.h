#ifndef TF_SRC_INTAKE_TABLE_H
#define TF_SRC_INTAKE_TABLE_H

/* A hash table of structs that embed a node. The caller has the lock. */

#include <stddef.h>
#include <stdint.h>

struct intake_node {
	uint64_t key;
	struct intake_node *next;
};

struct intake_table {
	struct intake_node **buckets; /* NULL while empty */
	unsigned int bits;	      /* of the number of buckets */
	size_t count;
};

struct intake_node *tf_intake_table_find(const struct intake_table *table, uint64_t key);

/* @node->key is not in the table. Returns 0 or -ENOMEM. */
int tf_intake_table_insert(struct intake_table *table, struct intake_node *node);
void tf_intake_table_remove(struct intake_table *table, struct intake_node *node);

/* Any one that is left, NULL when there is none. */
struct intake_node *tf_intake_table_any(const struct intake_table *table);
void tf_intake_table_free(struct intake_table *table);

#endif
