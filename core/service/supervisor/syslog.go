package supervisor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"regexp"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/lxbridge/lx/core/service/journal"
)

// maxSyslog bounds a message, in bytes; the rest of it is lost.
const maxSyslog = 8 << 10

// listenSyslog takes what services tell syslog(3), until ctx ends, and puts it
// into their logs. What other processes tell is dropped, as without a syslogd.
func (s *Supervisor) listenSyslog(ctx context.Context) error {
	path := s.cfg.Syslog
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("cannot listen for syslog: %w", err)
	}
	c, err := listenCredentials(path)
	if err != nil {
		return fmt.Errorf("cannot listen for syslog: %w", err)
	}
	if err := os.Chmod(path, 0o666); err != nil {
		return errors.Join(fmt.Errorf("cannot listen for syslog: %w", err), c.Close())
	}
	s.wg.Go(func() {
		defer c.Close()
		defer context.AfterFunc(ctx, func() { c.Close() })()
		b, oob := make([]byte, maxSyslog), make([]byte, unix.CmsgSpace(unix.SizeofUcred))
		for {
			n, oobn, _, _, err := c.ReadMsgUnix(b, oob)
			if err != nil {
				return
			}
			pid, ok := sender(oob[:oobn])
			if !ok {
				continue
			}
			lines := syslogLines(string(b[:n]))
			// Who writes faster than this waits.
			err = s.ask(func() error {
				v := s.serviceOf(pid)
				if v == nil {
					return nil
				}
				for _, l := range lines {
					if err := v.log.Write(journal.Stderr, l); err != nil {
						v.status = err.Error()
					}
				}
				return nil
			})
			if err != nil {
				return
			}
		}
	})
	return nil
}

// listenCredentials is a socket for datagrams whose senders the kernel tells.
func listenCredentials(path string) (*net.UnixConn, error) {
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return nil, err
	}
	raw, err := c.SyscallConn()
	if err == nil {
		cerr := raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PASSCRED, 1) })
		err = errors.Join(err, cerr)
	}
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// syslogHead is a message's priority and local time (RFC 3164, 4.1), which the
// log has of its own.
var syslogHead = regexp.MustCompile(`^(<\d{1,3}>)?([A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d )?`)

// syslogLines are the lines of a message, without its head.
func syslogLines(text string) []string {
	text = strings.TrimRight(text[len(syslogHead.FindString(text)):], "\n\x00")
	return strings.Split(text, "\n")
}

// maxAncestors is how far up a process's service is looked for.
const maxAncestors = 64

// serviceOf is the service that pid, or one that it descends from, is of.
func (s *Supervisor) serviceOf(pid int) *svc {
	for range maxAncestors {
		p, ok := stat(pid)
		if !ok || pid <= 1 {
			return nil
		}
		environ, _ := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid)) // of one that is gone: none
		for _, v := range s.services {
			if v.mark != "" && (pid == v.main || v.sessions[p.session] || bytes.Contains(environ, []byte("INVOCATION_ID="+v.mark+"\x00"))) {
				return v
			}
		}
		pid = p.parent
	}
	return nil
}
