package useragent

import (
	"fmt"
	"testing"
)

func TestClassify(t *testing.T) {
	tests := []struct {
		ua   string
		want Agent
	}{
		{"Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/124.0.0.0 Safari/537.36 Edg/124.0", Agent{"Edge", "Windows", Desktop}},
		{"Mozilla/5.0 (Macintosh; Intel Mac OS X 14_4) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.4 Safari/605.1.15", Agent{"Safari", "macOS", Desktop}},
		{"Mozilla/5.0 (iPhone; CPU iPhone OS 17_4 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) CriOS/124.0 Mobile/15E148 Safari/604.1", Agent{"Chrome", "iOS", Mobile}},
		{"Mozilla/5.0 (Linux; Android 14; Pixel 8) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/124.0 Mobile Safari/537.36", Agent{"Chrome", "Android", Mobile}},
		{"Mozilla/5.0 (Linux; Android 13; SM-X900) AppleWebKit/537.36 (KHTML, like Gecko) SamsungBrowser/24.0 Chrome/117.0 Safari/537.36", Agent{"Samsung Internet", "Android", Tablet}},
		{"Mozilla/5.0 (X11; Ubuntu; Linux x86_64; rv:125.0) Gecko/20100101 Firefox/125.0", Agent{"Firefox", "Linux", Desktop}},
		{"Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)", Agent{"Googlebot", "", Bot}},
		{"Mozilla/5.0 (something new)", Agent{Other, "", ""}},
		{"curl/8.5.0", Agent{"curl", "", Server}},
		{"Go-http-client/2.0", Agent{"Go-http-client", "", Server}},
		{"okhttp/4.12.0", Agent{"okhttp", "", Server}},
		{"Acme-SDK/3.1 (Android 14; Mobile)", Agent{"Acme-SDK", "Android", Mobile}},
		{"kube-probe/1.29", Agent{"kube-probe", "", Bot}},
		{"9f8a7c6d5e4f3a2b", Agent{Other, "", Server}},
		{"<script>", Agent{Other, "", Server}},
		{"", Agent{Other, "", Server}},
	}
	cache := NewCache()
	for _, tt := range tests {
		if got := Classify(tt.ua); got != tt.want {
			t.Errorf("%q: %v, want %v", tt.ua, got, tt.want)
		}
		for range 2 { // once classified, once remembered
			if got := cache.Classify(tt.ua); got != tt.want {
				t.Errorf("cache, %q: %v, want %v", tt.ua, got, tt.want)
			}
		}
	}
}

func TestCacheIsBounded(t *testing.T) {
	cache, families := NewCache(), map[string]bool{}
	for i := range 50_000 {
		families[cache.Classify(fmt.Sprintf("client-%c%c%c%c/1 %d", 'a'+i%26, 'a'+i/26%26, 'a'+i/676%26, 'a'+i/17576%26, i)).Family] = true
	}
	if len(families) > maxFamilies+1 {
		t.Errorf("%d families", len(families))
	}
	for i := range cache.shard {
		if n := len(cache.shard[i].m); n > shardSize {
			t.Errorf("shard %d holds %d", i, n)
		}
	}
}

func FuzzClassify(f *testing.F) {
	f.Add("Mozilla/5.0 (compatible; bot)")
	f.Fuzz(func(t *testing.T, ua string) {
		if a := Classify(ua); len(a.Family) > 40 || a.Family == "" {
			t.Errorf("family %q", a.Family)
		}
	})
}
