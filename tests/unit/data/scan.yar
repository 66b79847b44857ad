rule never_in_random_data {
	strings:
		$a = "a signature that no random data holds: 5b1f0c77e2"
	condition:
		$a
}
