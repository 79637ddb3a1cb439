package clickhouse

import "testing"

func TestReplicatedEngine(t *testing.T) {
	cfg := Default()
	cfg.Engine = Replicated
	for text, want := range map[string]string{
		"CREATE TABLE IF NOT EXISTS ${database}.calls (a Int8) ENGINE = ${engine:ReplacingMergeTree(version, toUInt8(x))} ORDER BY a": "CREATE TABLE IF NOT EXISTS tollway.calls (a Int8) ENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/{shard}/tollway/calls', '{replica}', version, toUInt8(x)) ORDER BY a",
		"create table `usage_15m` (a Int8) engine = ${engine:MergeTree} order by a":                                                   "create table `usage_15m` (a Int8) engine = ReplicatedMergeTree('/clickhouse/tables/{shard}/tollway/usage_15m', '{replica}') order by a",
		"CREATE TABLE other.x\n(a Int8)\nENGINE = ${engine: AggregatingMergeTree() }":                                                 "CREATE TABLE other.x\n(a Int8)\nENGINE = ReplicatedAggregatingMergeTree('/clickhouse/tables/{shard}/tollway/x', '{replica}')",
	} {
		got, err := expand(text, cfg, nil)
		if err != nil || got != want {
			t.Errorf("%s\n got %s, error %v\nwant %s", text, got, err, want)
		}
		cfg := cfg
		cfg.Engine = MergeTree
		if got, err := expand(text, cfg, nil); err != nil || got == want {
			t.Errorf("merge_tree: got %s, error %v", got, err)
		}
	}
	if _, err := expand("ALTER TABLE x MODIFY ENGINE ${engine:MergeTree}", cfg, nil); err == nil {
		t.Error("a replicated engine without a table to name it after")
	}
}

func FuzzOneStatement(f *testing.F) {
	for _, seed := range []string{"SELECT 1;", "SELECT ';' -- ;\n", "/* ; */ SELECT `;`", "a;b", "'", "--", "/*", ";;", `'\`} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		statement, err := oneStatement(text)
		if err != nil {
			return
		}
		// What is left is a fixed point: nothing more to cut.
		again, err := oneStatement(statement)
		if err != nil || again != statement {
			t.Errorf("%q gave %q, which gave %q, error %v", text, statement, again, err)
		}
	})
}
