package freeport

import (
	"fmt"
	"net"
	"os"
	"testing"
)

func TestRow(t *testing.T) {
	first, err := Row(3)
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(kernels)
	if err != nil {
		t.Fatal(err)
	}
	var low, high int
	if _, err := fmt.Sscan(string(text), &low, &high); err != nil {
		t.Fatal(err)
	}
	if first+2 >= low && first <= high {
		t.Errorf("%d to %d lie in the kernel's range %d to %d", first, first+2, low, high)
	}
	l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", first+1))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if free(first, 3) {
		t.Error("a row is free in which one is taken")
	}
	if !free(first, 1) {
		t.Error("a port is not free because its neighbour is taken")
	}
}

func TestTooMany(t *testing.T) {
	if first, err := Row(40_000); err == nil {
		t.Errorf("40,000 free ports from %d on", first)
	}
}
