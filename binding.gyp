# Hands node-gyp and prebuildify over to CMake. Not published: package.json says "gypfile": false.
{
  "targets": [
    {
      "target_name": "clip_cid",
      "type": "none",
      "actions": [
        {
          "action_name": "cmake",
          "inputs": [],
          "outputs": ["<(PRODUCT_DIR)/clip_cid.node"],
          "action": ["node", "scripts/cmake-build.cjs", "<(PRODUCT_DIR)", "<(CONFIGURATION_NAME)"]
        }
      ]
    }
  ]
}
