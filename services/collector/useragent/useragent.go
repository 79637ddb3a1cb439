// Package useragent sorts user agents into families, operating systems and
// kinds of device, coarsely: enough for a report, too little to follow a
// person.
//
// In: the User-Agent header. Out: an Agent of few distinct values. The cache
// is memory only; a crash loses nothing.
package useragent

import (
	"hash/maphash"
	"strings"
	"sync"
	"sync/atomic"
)

// Agent is what is kept of a user agent. Empty fields are not known.
type Agent struct{ Family, OS, Device string }

// Other is the family of agents that are too many or too odd to name.
const Other = "Other"

// Kinds of device.
const (
	Desktop = "desktop"
	Mobile  = "mobile"
	Tablet  = "tablet"
	Bot     = "bot"
	Server  = "server" // a program: a library or a command
)

// families are searched in order: browsers carry the names of those they
// imitate, so the imitators come first.
var families = []struct{ mark, family string }{
	{"Edg/", "Edge"}, {"EdgA/", "Edge"}, {"EdgiOS/", "Edge"}, {"Edge/", "Edge"},
	{"OPR/", "Opera"}, {"Opera", "Opera"}, {"SamsungBrowser/", "Samsung Internet"},
	{"Vivaldi/", "Vivaldi"}, {"YaBrowser/", "Yandex"},
	{"FxiOS/", "Firefox"}, {"Firefox/", "Firefox"},
	{"CriOS/", "Chrome"}, {"HeadlessChrome/", "Chrome"}, {"Chrome/", "Chrome"}, {"Chromium/", "Chrome"},
	{"Trident/", "Internet Explorer"}, {"MSIE ", "Internet Explorer"},
	{"Safari/", "Safari"},
}

var systems = []struct{ mark, os, device string }{
	{"iPad", "iOS", Tablet}, {"iPhone", "iOS", Mobile}, {"iPod", "iOS", Mobile},
	{"Android", "Android", ""}, {"CrOS", "ChromeOS", Desktop},
	{"Windows", "Windows", Desktop}, {"Macintosh", "macOS", Desktop}, {"Mac OS X", "macOS", Desktop},
	{"Darwin", "macOS", ""}, {"darwin", "macOS", ""}, {"Linux", "Linux", Desktop}, {"linux", "Linux", Server},
}

var botMarks = []string{"bot", "Bot", "crawler", "Crawler", "spider", "Spider", "Slurp", "monitor", "Monitor", "HealthChecker", "kube-probe"}

// maxLength is how much of a header is looked at.
const maxLength = 512

// Classify sorts one user agent.
func Classify(ua string) Agent {
	ua = ua[:min(len(ua), maxLength)]
	var a Agent
	for _, s := range systems {
		if strings.Contains(ua, s.mark) {
			a.OS, a.Device = s.os, s.device
			break
		}
	}
	if a.OS == "Android" {
		a.Device = Tablet
		if strings.Contains(ua, "Mobile") {
			a.Device = Mobile
		}
	}
	browser := strings.HasPrefix(ua, "Mozilla/") || strings.HasPrefix(ua, "Opera/")
	for _, mark := range botMarks {
		if strings.Contains(ua, mark) {
			a.Device = Bot
			a.Family = botFamily(ua, browser)
			return a
		}
	}
	if !browser {
		a.Family = product(ua)
		if a.Device != Mobile && a.Device != Tablet {
			a.Device = Server
		}
		return a
	}
	a.Family = Other
	for _, f := range families {
		if strings.Contains(ua, f.mark) {
			a.Family = f.family
			break
		}
	}
	return a
}

// botFamily is the token that holds the mark: bots that look like browsers
// name themselves inside a comment.
func botFamily(ua string, browser bool) string {
	if !browser {
		return product(ua)
	}
	for token := range strings.FieldsFuncSeq(ua, func(r rune) bool { return r == ' ' || r == ';' || r == '(' || r == ')' || r == ',' }) {
		for _, mark := range botMarks {
			if strings.Contains(token, mark) && !strings.Contains(token, "://") {
				return product(token)
			}
		}
	}
	return Other
}

// product is the name before the first version, when it looks like a name.
func product(ua string) string {
	name, _, _ := strings.Cut(ua, "/")
	name, _, _ = strings.Cut(name, " ")
	if len(name) == 0 || len(name) > 40 {
		return Other
	}
	letters := 0
	for i := range len(name) {
		switch c := name[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z':
			letters++
		case c >= '0' && c <= '9', c == '-', c == '_', c == '.', c == '+':
		default:
			return Other
		}
	}
	if letters*2 < len(name) || name[0] >= '0' && name[0] <= '9' {
		return Other // an id rather than a name
	}
	return name
}

const (
	shards    = 16
	shardSize = 512
	// maxFamilies bounds the names that clients can make up.
	maxFamilies = 1000
)

// Cache remembers the class of each distinct user agent. It is bounded: a full
// shard starts again.
type Cache struct {
	seed   maphash.Seed
	shard  [shards]shard
	names  sync.Map // of families: string → struct{}
	nnames atomic.Int32
}

type shard struct {
	mu sync.RWMutex
	m  map[string]Agent
}

// NewCache makes an empty cache.
func NewCache() *Cache { return &Cache{seed: maphash.MakeSeed()} }

// Classify is the function of the same name, remembered. A cache names a
// bounded number of families; further ones are Other.
func (c *Cache) Classify(ua string) Agent {
	ua = ua[:min(len(ua), maxLength)]
	s := &c.shard[maphash.String(c.seed, ua)%shards]
	s.mu.RLock()
	a, ok := s.m[ua]
	s.mu.RUnlock()
	if ok {
		return a
	}
	ua = strings.Clone(ua) // it may alias a buffer
	a = Classify(ua)
	a.Family = c.name(a.Family)
	s.mu.Lock()
	if len(s.m) >= shardSize || s.m == nil {
		s.m = make(map[string]Agent)
	}
	s.m[ua] = a
	s.mu.Unlock()
	return a
}

func (c *Cache) name(family string) string {
	if v, ok := c.names.Load(family); ok {
		return v.(string)
	}
	if c.nnames.Load() >= maxFamilies {
		return Other
	}
	family = strings.Clone(family)
	if _, loaded := c.names.LoadOrStore(family, family); !loaded {
		c.nnames.Add(1)
	}
	return family
}
