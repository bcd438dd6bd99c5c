package netns

import (
	"bufio"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// procFiles are the tables below /proc/PID/net. Anybody may read those of any
// process, also of namespaces that may not be entered. They do not show TCP
// sockets that are only bound, nor cgroups.
var procFiles = map[Protocol][]string{
	TCP: {"tcp", "tcp6"}, UDP: {"udp", "udp6"}, UDPLite: {"udplite", "udplite6"}, Raw: {"raw", "raw6"},
}

// readProc lists what q chooses from the tables in dir (/proc/PID/net).
func readProc(dir string, q Query) ([]Socket, error) {
	low, high := q.ports()
	var all []Socket
	for _, p := range q.protocols() {
		for _, name := range procFiles[p] {
			f, err := os.Open(dir + "/" + name)
			if errors.Is(err, os.ErrNotExist) {
				continue // a kernel without IPv6 or UDP-Lite
			}
			if err != nil {
				return nil, fmt.Errorf("cannot read sockets: %w", err)
			}
			err = parseProc(f, p, func(s Socket) {
				if s.Local.Port() >= low && s.Local.Port() <= high && q.states(p)&(1<<s.State) != 0 {
					all = append(all, s)
				}
			})
			f.Close()
			if err != nil {
				return nil, fmt.Errorf("cannot read %s/%s: %w", dir, name, err)
			}
		}
	}
	return all, nil
}

// parseProc reads a table as proc_pid_net(5) describes tcp.
func parseProc(r io.Reader, p Protocol, f func(Socket)) error {
	lines := bufio.NewScanner(r)
	lines.Scan() // the title
	for lines.Scan() {
		field := strings.Fields(lines.Text())
		if len(field) < 10 {
			return fmt.Errorf("malformed line %q", lines.Text())
		}
		s := Socket{Protocol: p}
		var err [6]error
		s.Local, err[0] = parseEnd(field[1])
		s.Remote, err[1] = parseEnd(field[2])
		state, serr := strconv.ParseUint(field[3], 16, 8)
		uid, uerr := strconv.ParseUint(field[7], 10, 32)
		inode, ierr := strconv.ParseUint(field[9], 10, 32)
		tx, rx, _ := strings.Cut(field[4], ":")
		send, terr := strconv.ParseUint(tx, 16, 32)
		receive, rerr := strconv.ParseUint(rx, 16, 32)
		if e := errors.Join(err[0], err[1], serr, uerr, ierr, terr, rerr); e != nil {
			return fmt.Errorf("malformed line %q: %w", lines.Text(), e)
		}
		s.State, s.UID, s.Inode = State(state), uint32(uid), uint32(inode)
		s.SendQ, s.RecvQ = uint32(send), uint32(receive)
		s.Family = unix.AF_INET6
		if s.Local.Addr().Is4() {
			s.Family = unix.AF_INET
		}
		f(s)
	}
	return lines.Err()
}

// parseEnd reads "0100007F:1F90": the address in words of the host's byte order.
func parseEnd(text string) (netip.AddrPort, error) {
	host, port, ok := strings.Cut(text, ":")
	n, err := strconv.ParseUint(port, 16, 16)
	b, herr := hex.DecodeString(host)
	if !ok || err != nil || herr != nil || len(b) != 4 && len(b) != 16 {
		return netip.AddrPort{}, fmt.Errorf("%q is no address and port", text)
	}
	// The digits are those of each word as a number.
	for i := 0; i < len(b); i += 4 {
		native.PutUint32(b[i:], uint32(b[i])<<24|uint32(b[i+1])<<16|uint32(b[i+2])<<8|uint32(b[i+3]))
	}
	a, _ := netip.AddrFromSlice(b)
	return netip.AddrPortFrom(a, uint16(n)), nil
}
