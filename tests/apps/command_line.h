/*
 * Commands of a test program: one line on standard input, one line of reply
 * on standard output when the command is done. Nothing is buffered, so a
 * signal handler may read the next line as well.
 */
#ifndef TF_COMMAND_LINE_H
#define TF_COMMAND_LINE_H

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

/* Read one line without its newline into @line. Returns 0 at the end of the input. */
static int read_command(char *line, size_t size)
{
	size_t used = 0;
	char c;

	while (used + 1 < size) {
		if (read(STDIN_FILENO, &c, 1) != 1)
			return 0;
		if (c == '\n')
			break;
		line[used++] = c;
	}
	line[used] = '\0';
	return 1;
}

__attribute__((format(printf, 1, 2))) static void reply(const char *format, ...)
{
	char line[512];
	va_list args;
	int size;

	va_start(args, format);
	size = vsnprintf(line, sizeof(line) - 1, format, args);
	va_end(args);
	line[size++] = '\n';
	if (write(STDOUT_FILENO, line, (size_t)size) != size)
		_exit(3); /* the test is gone */
}

#endif
