package option

import (
	"errors"
	"strings"
	"syscall"
	"testing"
)

func TestParseUNC(t *testing.T) {
	for s, want := range map[string]UNC{
		"//nas/photos":                           {"nas", "photos", ""},
		`\\nas\photos`:                           {"nas", "photos", ""},
		"//nas/photos/":                          {"nas", "photos", ""},
		"//nas/photos//2024/may/":                {"nas", "photos", "2024/may"},
		`//nas/photos\2024/may`:                  {"nas", "photos", "2024/may"},
		"//nas.home/my photos/ä ö":               {"nas.home", "my photos", "ä ö"},
		"//192.0.2.7/s":                          {"192.0.2.7", "s", ""},
		"//[::1]/s":                              {"::1", "s", ""},
		"//2001:db8::7/s/d":                      {"2001:db8::7", "s", "d"},
		"//2001-db8--7.ipv6-literal.net/s":       {"2001:db8::7", "s", ""},
		"//fe80--1seth0.IPV6-literal.net/s":      {"fe80::1%eth0", "s", ""},
		"//nas/hidden$":                          {"nas", "hidden$", ""},
		"//" + strings.Repeat("h", 253) + "/s/d": {strings.Repeat("h", 253), "s", "d"},
	} {
		got, err := ParseUNC(s)
		if err != nil || got != want {
			t.Errorf("%q: %+v %v", s, got, err)
		}
	}
	for s, why := range map[string]string{
		"":                                     "empty",
		"nas:/export":                          "two slashes",
		"/nas/photos":                          "two slashes",
		"///nas/photos":                        "two slashes",
		"//":                                   "two slashes",
		"//nas":                                "share's name is missing",
		"//nas/":                               "share's name is missing",
		"//nas//photos":                        "share's name is missing",
		"smb://nas/photos":                     "URL",
		"//nas:445/photos":                     "port=",
		"//[::1]:445/s":                        "port=",
		"//[nas]/s":                            "IPv6",
		"//x.ipv6-literal.net/s":               "IPv6",
		"//nas/photos/../x":                    "..",
		"//nas/photos/./x":                     ".",
		"//me@nas/s":                           "none can have",
		"//n s/s":                              "none can have",
		"//n\xffs/s":                           "UTF-8",
		"//n/s\x00":                            "NUL",
		"//" + strings.Repeat("h", 254) + "/s": "253",
		"//n/" + strings.Repeat("s", 5000):     "4095",
	} {
		_, err := ParseUNC(s)
		if !errors.Is(err, syscall.EINVAL) || !strings.Contains(err.Error(), why) {
			t.Errorf("%q: %v", s, err)
		}
	}
}

func TestParseCredentials(t *testing.T) {
	for text, want := range map[string]Login{
		"":                                   {},
		"username=me\npassword=pw\ndomain=D": {User: "me", Password: "pw", Domain: "D", HasUser: true, HasPassword: true, HasDomain: true},
		"username=me\r\npassword=p w \r\n":   {User: "me", Password: "p w ", HasUser: true, HasPassword: true},
		"# hello\n\n  user = me\n pass = pw": {User: "me", Password: "pw", HasUser: true, HasPassword: true},
		"password= lead,ing=x":               {Password: " lead,ing=x", HasPassword: true},
		"password=":                          {HasPassword: true},
		"\ufeffUSERNAME=me":                  {User: "me", HasUser: true},
		"password2=old\ndom=D":               {Password2: "old", Domain: "D", HasDomain: true},
	} {
		got, err := ParseCredentials([]byte(text))
		if err != nil || got != want {
			t.Errorf("%q: %+v %v", text, got, err)
		}
	}
	for text, why := range map[string]string{
		"username=me\nhunter2":                "line 2",
		"hunter2=x":                           "line 1",
		"password=hunter2\x00":                "NUL",
		strings.Repeat("#\n", MaxCredentials): "65536",
	} {
		_, err := ParseCredentials([]byte(text))
		if err == nil || !strings.Contains(err.Error(), why) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%.20q: %v", text, err)
		}
	}
}
