/*
 * weir.c - the program; everything is in the table of commands (cmd.c)
 */
#include <locale.h>

#include "tools/cmd.h"

int main(int argc, char **argv)
{
	setlocale(LC_CTYPE, ""); /* widths of names in tables */
	return command_main(argc, argv);
}
