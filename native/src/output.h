#ifndef TF_SRC_OUTPUT_H
#define TF_SRC_OUTPUT_H

#include <tracefleet/output.h>

struct tf_output *tf_output_get(struct tf_output *output);

/* Where it streams to; both NULL: it has files. */
struct tf_relay *tf_output_relay(const struct tf_output *output);
struct tf_fleet *tf_output_fleet(const struct tf_output *output);

/*
 * Make a file anew as the owner: @directory is NULL or the name of one subdirectory ("index"), @name one path
 * component. What had that name before is unlinked, never written to. Returns a descriptor or a negative errno.
 */
int tf_output_create_file(struct tf_output *output, const char *directory, const char *name, int flags);

#endif
