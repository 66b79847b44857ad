/*
 * test-heatmap.c - pictures of heat maps and miss-ratio curves from a daemon's answers
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>
#ifdef HAVE_PNG
#include <png.h>
#endif

#include "tools/heatmap.h"

/* 4 rows of 1 MiB (of which the image has 3), 3 columns of a minute. */
static const char answer[] =
        "{\"size_bytes\":3145728,\"rows\":4,\"row_bytes\":1048576,\"columns\":3,"
        "\"column_seconds\":60,\"end_wall_ns\":1700000000000000000,"
        "\"reads\":[[0,0,0,0],[1000,0,0,0],[0,0,16,0]],\"reads_total\":[5000,0,16,0],"
        "\"writes\":[[0,0,0,0],[0,0,0,0],[0,200,0,0]],\"writes_total\":[0,200,0,0]}";

static struct heatmap map_of(const char *text)
{
	json_t *json = json_loads(text, 0, NULL);
	struct heatmap m;

	assert_non_null(json);
	assert_int_equal(heatmap_parse(json, &m), 0);
	json_decref(json);
	return m;
}

static char *text_of(unsigned lines, unsigned width, bool utf8)
{
	struct heatmap m = map_of(answer);
	char *text = NULL;
	size_t len = 0;
	FILE *out = open_memstream(&text, &len);

	assert_non_null(out);
	heatmap_text(&m, lines, width, utf8, out);
	fclose(out);
	heatmap_release(&m);
	return text;
}

static void test_text_map_shades_what_was_used(void **state)
{
	char *ascii = text_of(24, 60, false), *utf8 = text_of(24, 60, true);

	assert_non_null(strstr(ascii, "       0 B  @        5000          0\n"));
	assert_non_null(strstr(ascii, "   1.0 MiB   # "));
	assert_non_null(strstr(ascii, "   2.0 MiB   + "));
	assert_null(strstr(ascii, "3.0 MiB")); /* the image ends before */
	assert_non_null(strstr(utf8, "       0 B  █ "));
	assert_non_null(strstr(utf8, "3 min"));
	free(ascii);
	free(utf8);
}

static void test_text_map_is_as_small_as_asked(void **state)
{
	char *text = text_of(1, 1, false);
	unsigned lines = 0;

	for (const char *c = text; *c; c++)
		lines += *c == '\n';
	assert_int_equal(lines, 3);
	/* All of it is in the one cell. */
	assert_non_null(strstr(text, "       0 B @       5016        200\n"));
	free(text);
}

static unsigned count(const char *text, const char *what)
{
	unsigned n = 0;

	for (; (text = strstr(text, what)); text++)
		n++;
	return n;
}

static void test_svg_has_axes_cells_and_an_escaped_title(void **state)
{
	struct heatmap m = map_of(answer);
	char *text = NULL;
	size_t len = 0;
	FILE *out = open_memstream(&text, &len);

	assert_non_null(out);
	assert_int_equal(heatmap_svg(&m, "a<b>&\"\033.raw", out), 0);
	fclose(out);
	assert_non_null(strstr(text, "a&#60;b&#62;&#38;&#34;?.raw"));
	assert_non_null(strstr(text, ">reads<"));
	assert_non_null(strstr(text, ">writes<"));
	assert_non_null(strstr(text, ">offset<"));
	assert_int_equal(count(text, ">time<"), 2);
	assert_non_null(strstr(text, ">3.0 MiB<"));
	assert_non_null(strstr(text, "</svg>"));
	/* The hottest colour: that of the 1000 reads, of the 5000 in all, and the end of the scale. */
	assert_int_equal(count(text, "#2a0030"), 3);
	free(text);
	heatmap_release(&m);
}

static void test_nonsense_is_refused(void **state)
{
	static const char *const bad[] = {
	        "{}",
	        "[]",
	        "{\"rows\":4,\"row_bytes\":1,\"columns\":1,\"column_seconds\":1}",
	        "{\"rows\":4000000000,\"row_bytes\":4096,\"columns\":1,\"column_seconds\":1}",
	        "{\"rows\":1,\"row_bytes\":4096,\"columns\":1,\"column_seconds\":1,\"reads\":[[-1]]"
	        ","
	        "\"reads_total\":[0],\"writes\":[[0]],\"writes_total\":[0]}",
	        "{\"rows\":1,\"row_bytes\":4096,\"columns\":2,\"column_seconds\":1,\"reads\":[[0]],"
	        "\"reads_total\":[0],\"writes\":[[0]],\"writes_total\":[0]}",
	        "{\"rows\":1,\"row_bytes\":4096,\"columns\":1,\"column_seconds\":1,\"reads\":"
	        "[[\"x\"]],\"reads_total\":[0],\"writes\":[[0]],\"writes_total\":[0]}",
	};

	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
		json_t *json = json_loads(bad[i], 0, NULL);
		struct heatmap m;
		assert_non_null(json);
		assert_int_equal(heatmap_parse(json, &m), -EBADMSG);
		json_decref(json);
	}
}

static void test_failing_output_is_an_error(void **state)
{
	struct heatmap m = map_of(answer);
	FILE *out = fopen("/dev/full", "w");

	if (!out)
		skip();
	setvbuf(out, NULL, _IONBF, 0);
	assert_true(heatmap_svg(&m, "x", out) < 0);
	fclose(out);
	heatmap_release(&m);
}

#ifdef HAVE_PNG
static void test_png_shows_the_hot_cell(void **state)
{
	struct heatmap m = map_of(answer);
	png_image image = {.version = PNG_IMAGE_VERSION};
	struct errmsg em = {0};
	FILE *file = tmpfile();

	assert_non_null(file);
	assert_int_equal(heatmap_png(&m, "a.raw \xc3\xa4", file, &em), 0);
	rewind(file);
	assert_true(png_image_begin_read_from_stdio(&image, file));
	image.format = PNG_FORMAT_RGB;
	uint8_t *rgb = malloc(PNG_IMAGE_SIZE(image));
	assert_non_null(rgb);
	assert_true(png_image_finish_read(&image, NULL, rgb, 0, NULL));
	unsigned hot = 0, ink = 0;
	for (size_t i = 0; i < (size_t)image.width * image.height; i++) {
		hot += !memcmp(rgb + 3 * i, "\x2a\x00\x30", 3);
		ink += !memcmp(rgb + 3 * i, "\x22\x22\x22", 3);
	}
	/* A cell of 80 x 170 pixels, a bar of 60 x 170, the scale's last step. */
	assert_true(hot > 20000 && hot < 30000);
	assert_true(ink > 500);
	free(rgb);
	fclose(file);
	heatmap_release(&m);
}
#endif

static void test_curve_marks_the_recommended_size(void **state)
{
	static const char text[] =
	        "{\"points\":[{\"cache_bytes\":0,\"miss_ratio\":1,\"read_miss_ratio\":1},"
	        "{\"cache_bytes\":1048576,\"miss_ratio\":0.25,\"read_miss_ratio\":0.2}],"
	        "\"recommended\":{\"cache_bytes\":524288,\"hit_ratio\":0.7,\"best_hit_ratio\":0.75}"
	        "}";
	json_t *json = json_loads(text, 0, NULL), *none = json_object();
	char *svg = NULL;
	size_t len = 0;
	FILE *out = open_memstream(&svg, &len);

	assert_true(json && none && out);
	assert_int_equal(mrc_svg(json, "a.raw", out), 0);
	assert_int_equal(mrc_svg(none, "a.raw", out), -EBADMSG);
	fclose(out);
	assert_non_null(strstr(svg, "recommended: 512.0 KiB, hit ratio 0.700 of at best 0.750"));
	assert_non_null(strstr(svg, "size of an LRU cache"));
	/* (1 MiB, 0.25) is at the right, a quarter up: 64 + 560, 48 + 320 x 0.75. */
	assert_non_null(strstr(svg, "624.00,288.00 "));
	assert_int_equal(count(svg, "<polyline"), 2);
	free(svg);
	json_decref(json);
	json_decref(none);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_text_map_shades_what_was_used),
	        cmocka_unit_test(test_text_map_is_as_small_as_asked),
	        cmocka_unit_test(test_svg_has_axes_cells_and_an_escaped_title),
	        cmocka_unit_test(test_nonsense_is_refused),
	        cmocka_unit_test(test_failing_output_is_an_error),
#ifdef HAVE_PNG
	        cmocka_unit_test(test_png_shows_the_hot_cell),
#endif
	        cmocka_unit_test(test_curve_marks_the_recommended_size),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
