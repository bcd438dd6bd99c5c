// Package freeport finds ports for the servers of tests.
package freeport

import (
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
)

// kernels is the file of the range that the kernel gives ports from to who asks for none (ip(7)).
const kernels = "/proc/sys/net/ipv4/ip_local_port_range"

// Row answers the first of n ports in a row that nothing is bound to, with TCP
// or UDP, at any address. They lie outside the range that the kernel gives
// ports from: no client comes upon them before the server does, nor while it is
// started again.
func Row(n int) (int, error) {
	text, err := os.ReadFile(kernels)
	if err != nil {
		return 0, fmt.Errorf("cannot find a free port: %w", err)
	}
	var low, high int
	if _, err := fmt.Sscan(string(text), &low, &high); err != nil {
		return 0, fmt.Errorf("cannot find a free port: %s is %q: %w", kernels, text, err)
	}
	const lowest, highest = 10_000, 65_535
	for range 1000 {
		first := lowest + rand.N(highest+2-n-lowest)
		if first <= high && first+n > low || !free(first, n) {
			continue
		}
		return first, nil
	}
	return 0, fmt.Errorf("there are no %d free ports in a row outside of %d to %d", n, low, high)
}

// One answers a port as Row does.
func One() (int, error) { return Row(1) }

func free(first, n int) bool {
	for port := first; port < first+n; port++ {
		addr := ":" + strconv.Itoa(port)
		l, err := net.Listen("tcp", addr)
		if err != nil {
			return false
		}
		defer l.Close()
		c, err := net.ListenPacket("udp", addr)
		if err != nil {
			return false
		}
		defer c.Close()
	}
	return true
}
