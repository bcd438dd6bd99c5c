package netns

import (
	"regexp"
	"strings"
)

// Container is where a cgroup's path says that a process runs.
type Container struct {
	Runtime string `json:"runtime"` // docker, podman, containerd, cri-o, kubernetes, nspawn, lxc
	ID      string `json:"id"`      // as its tools print it: 12 digits, or the machine's name
	Pod     string `json:"pod,omitempty"`
}

func (c Container) String() string {
	if c.ID == "" {
		return ""
	}
	return c.Runtime + ":" + c.ID
}

// containerPaths are the places of a container's cgroup, below systemd and
// without it. The last group is the id.
var containerPaths = []struct {
	runtime string
	path    *regexp.Regexp
}{
	{"docker", regexp.MustCompile(`/docker[-/]([0-9a-f]{64})(?:\.scope)?(?:/|$)`)},
	{"podman", regexp.MustCompile(`/libpod-([0-9a-f]{64})(?:\.scope)?(?:/|$)`)},
	{"cri-o", regexp.MustCompile(`/crio-([0-9a-f]{64})(?:\.scope)?(?:/|$)`)},
	{"containerd", regexp.MustCompile(`[/:]cri-containerd[-:]([0-9a-f]{64})(?:\.scope)?(?:/|$)`)},
	{"kubernetes", regexp.MustCompile(`/kubepods[^:]*/([0-9a-f]{64})(?:/|$)`)},
	{"nspawn", regexp.MustCompile(`/machine\.slice/(?:machine-|systemd-nspawn@)([^/]+?)\.(?:scope|service)(?:/|$)`)},
	{"lxc", regexp.MustCompile(`/lxc(?:\.payload)?[./]([^/]+)(?:/|$)`)},
}

var podPath = regexp.MustCompile(`pod([0-9a-f]{8}[-_][0-9a-f]{4}[-_][0-9a-f]{4}[-_][0-9a-f]{4}[-_][0-9a-f]{12}|[0-9a-f]{32})`)

// containerOf reads a cgroup's path; the zero Container is none.
func containerOf(cgroup string) Container {
	for _, p := range containerPaths {
		m := p.path.FindStringSubmatch(cgroup)
		if m == nil {
			continue
		}
		c := Container{Runtime: p.runtime, ID: m[1]}
		if len(c.ID) == 64 {
			c.ID = c.ID[:12]
		}
		c.ID = strings.ReplaceAll(c.ID, `\x2d`, "-") // systemd's escape
		if pod := podPath.FindStringSubmatch(cgroup); pod != nil && strings.Contains(cgroup, "kubepods") {
			c.Pod = strings.ReplaceAll(pod[1], "_", "-")
		}
		return c
	}
	return Container{}
}
