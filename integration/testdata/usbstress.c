/* usbstress VENDOR PRODUCT SECONDS [kill]: keeps many libusb transfers in flight on the
 * test gadget of devices/usb/usbtest, cancels some, and says how they ended; with kill
 * it dies amid them. */
#include <libusb-1.0/libusb.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { SOURCE = 0x82, SINK = 0x02, LOOP_IN = 0x81, EVENT = 0x83, SIZE = 16384, COUNT = 144 };

static long done, cancelled, errors;
static int stop, inflight;

static void LIBUSB_CALL finished(struct libusb_transfer *t)
{
	switch (t->status) {
	case LIBUSB_TRANSFER_COMPLETED:
		done++;
		for (int i = 0; t->endpoint == SOURCE && i < t->actual_length; i++)
			if (t->buffer[i] != (i & 255)) {
				errors++;
				printf("%#x at %d of %d\n", t->buffer[i], i, t->actual_length);
				break;
			}
		break;
	case LIBUSB_TRANSFER_CANCELLED:
	case LIBUSB_TRANSFER_TIMED_OUT:
		cancelled++;
		break;
	default:
		errors++;
		printf("endpoint %#x ends with status %d\n", t->endpoint, t->status);
	}
	if (t->endpoint == SOURCE)
		memset(t->buffer, 0xee, t->length);
	if (stop || libusb_submit_transfer(t)) {
		errors += !stop;
		inflight--;
	}
}

int main(int argc, char **argv)
{
	static struct libusb_transfer *t[COUNT];
	libusb_context *ctx;
	libusb_device_handle *h;
	if (argc < 4 || libusb_init(&ctx))
		return 2;
	h = libusb_open_device_with_vid_pid(ctx, strtol(argv[1], 0, 16), strtol(argv[2], 0, 16));
	if (!h || libusb_claim_interface(h, 0)) {
		puts("no device, or it is another's");
		return 1;
	}
	for (int i = 0; i < COUNT; i++) {
		unsigned char *b = calloc(1, SIZE);
		t[i] = libusb_alloc_transfer(0);
		if (i < 64)
			libusb_fill_bulk_transfer(t[i], h, SOURCE, b, SIZE, finished, 0, 10000);
		else if (i < 128)
			libusb_fill_bulk_transfer(t[i], h, SINK, b, SIZE, finished, 0, 10000);
		else if (i < 136)
			libusb_fill_bulk_transfer(t[i], h, LOOP_IN, b, 512, finished, 0, 20);
		else
			libusb_fill_interrupt_transfer(t[i], h, EVENT, b, 64, finished, 0, 0);
		if (libusb_submit_transfer(t[i]))
			return 1;
		inflight++;
	}
	struct timeval tick = {0, 1000};
	for (time_t begin = time(0); time(0) - begin < atoi(argv[3]);) {
		libusb_handle_events_timeout(ctx, &tick);
		libusb_cancel_transfer(t[rand() % COUNT]);
	}
	if (argc > 4)
		raise(SIGKILL);
	stop = 1;
	for (int i = 0; i < COUNT; i++)
		libusb_cancel_transfer(t[i]);
	while (inflight)
		libusb_handle_events_timeout(ctx, &tick);
	errors += libusb_reset_device(h) != 0;
	printf("%ld done, %ld cancelled, %ld errors\n", done, cancelled, errors);
	libusb_close(h);
	libusb_exit(ctx);
	return errors != 0 || done < 100 || cancelled < 10;
}
